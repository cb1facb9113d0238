"""Adapters with a CTC head."""
