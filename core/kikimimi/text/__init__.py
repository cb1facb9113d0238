"""Text on its way into an LLM: chat templates, and a tokenizer that lets no text become a control token."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
