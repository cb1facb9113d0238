"""Published speech LLMs: taken in as runs, and runs written as such."""
