"""The public names."""

from .chat_template import SLOT_ID as SLOT_ID, ChatTemplate as ChatTemplate, flatten as flatten
from .guarded_tokenizer import (
    AUDIO_ID as AUDIO_ID,
    GuardedTokenizer as GuardedTokenizer,
    check_fast as check_fast,
    control_tokens as control_tokens,
    one_token as one_token,
)
from .templates import TEMPLATES as TEMPLATES, find_template as find_template
