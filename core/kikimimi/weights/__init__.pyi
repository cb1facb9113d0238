"""The public names."""

from .ctranslate2 import CTranslate2File as CTranslate2File
from .files import (
    CONFIG_PATTERNS as CONFIG_PATTERNS,
    DEFAULT_PATTERNS as DEFAULT_PATTERNS,
    INDEX as INDEX,
    WeightsFiles as WeightsFiles,
    load_state as load_state,
    matches as matches,
)
from .find import find_weights as find_weights
