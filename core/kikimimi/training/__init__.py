"""Training: the stages of a recipe, through Lightning."""
