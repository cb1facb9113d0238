"""Parakeet: the FastConformer of NVIDIA NeMo."""
