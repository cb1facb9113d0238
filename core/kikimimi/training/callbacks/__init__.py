"""What happens around the steps of a stage."""
