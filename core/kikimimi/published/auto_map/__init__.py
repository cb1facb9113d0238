"""A run as a custom model of transformers: its code, which knows nothing of kikimimi, and what writes it."""
