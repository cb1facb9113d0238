"""Weights: where they are found, and how tensors are read and written."""
