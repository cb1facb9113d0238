"""Text on its way into an LLM: chat templates, and a tokenizer that lets no text become a control token."""
