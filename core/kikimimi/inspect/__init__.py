"""Looking at what is there: a recipe, its model, its data."""
