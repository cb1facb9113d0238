"""Published speech LLMs: taken in as runs."""
