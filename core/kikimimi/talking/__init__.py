"""Talking to what was trained: in a terminal, and in a browser."""
