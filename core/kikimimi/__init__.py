"""kikimimi gives a text LLM ears: speech-aware language models from plugins and recipes.

The public names stand in ``__init__.pyi``. They are imported when first used, so that ``import kikimimi``
costs no torch import.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
