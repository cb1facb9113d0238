"""Guards: what training may have cost an LLM, measured on small sets of our own, without a download."""
