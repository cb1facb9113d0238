"""The public names."""

from .chat_template import ChatTemplate as ChatTemplate, flatten as flatten
from .guarded_tokenizer import GuardedTokenizer as GuardedTokenizer
from .templates import TEMPLATES as TEMPLATES, find_template as find_template
