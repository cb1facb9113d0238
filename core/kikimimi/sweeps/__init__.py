"""Sweeps: many runs of one recipe, what each changes, and the table that comes of them."""
