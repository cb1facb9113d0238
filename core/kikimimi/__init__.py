"""kikimimi gives a text LLM ears: speech-aware language models from plugins and recipes.

Names are imported when first used, so that ``import kikimimi`` costs no torch import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kikimimi.contracts.component import (
        LLM,
        Adapter,
        AdapterContext,
        AdapterOutput,
        Component,
        ComponentConfig,
        Encoder,
        LLMContext,
        Padded,
        Rendered,
    )
    from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
    from kikimimi.contracts.generation import Generation
    from kikimimi.contracts.layers import Combine, Taps, check_taps, tiny_layers
    from kikimimi.contracts.layout import Layout, LayoutConfig, Row
    from kikimimi.contracts.normaliser import Normaliser
    from kikimimi.contracts.objective import Loss, Objective, ObjectiveConfig, Step
    from kikimimi.contracts.recogniser import Recogniser, RecogniserConfig
    from kikimimi.contracts.task import Task, TaskConfig
    from kikimimi.contracts.vocabulary import CharacterVocabulary, TokenizerVocabulary, Vocabulary
    from kikimimi.contracts.voice import Voice, VoiceConfig
    from kikimimi.errors import AudioError, DataError, KikimimiError, PluginError, RecipeError, WeightsError
    from kikimimi.recipe.chosen import Chosen
    from kikimimi.weights.files import WeightsFiles, find_weights

__version__ = "0.1.0"

_HOMES = {
    "kikimimi.contracts.conversation": ("AudioPart", "Conversation", "Message", "TextPart"),
    "kikimimi.errors": (
        "AudioError",
        "DataError",
        "KikimimiError",
        "PluginError",
        "RecipeError",
        "WeightsError",
    ),
    "kikimimi.contracts.generation": ("Generation",),
    "kikimimi.contracts.component": (
        "LLM",
        "Adapter",
        "AdapterContext",
        "AdapterOutput",
        "Component",
        "ComponentConfig",
        "Encoder",
        "LLMContext",
        "Padded",
        "Rendered",
    ),
    "kikimimi.contracts.layout": ("Layout", "LayoutConfig", "Row"),
    "kikimimi.contracts.normaliser": ("Normaliser",),
    "kikimimi.contracts.objective": ("Loss", "Objective", "ObjectiveConfig", "Step"),
    "kikimimi.recipe.chosen": ("Chosen",),
    "kikimimi.contracts.recogniser": ("Recogniser", "RecogniserConfig"),
    "kikimimi.contracts.layers": ("Combine", "Taps", "check_taps", "tiny_layers"),
    "kikimimi.contracts.task": ("Task", "TaskConfig"),
    "kikimimi.contracts.vocabulary": ("CharacterVocabulary", "TokenizerVocabulary", "Vocabulary"),
    "kikimimi.contracts.voice": ("Voice", "VoiceConfig"),
    "kikimimi.weights.files": ("WeightsFiles", "find_weights"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "LLM",
    "Adapter",
    "AdapterContext",
    "AdapterOutput",
    "AudioError",
    "AudioPart",
    "CharacterVocabulary",
    "Chosen",
    "Combine",
    "Component",
    "ComponentConfig",
    "Conversation",
    "DataError",
    "Encoder",
    "Generation",
    "KikimimiError",
    "LLMContext",
    "Layout",
    "LayoutConfig",
    "Loss",
    "Message",
    "Normaliser",
    "Objective",
    "ObjectiveConfig",
    "Padded",
    "PluginError",
    "RecipeError",
    "Recogniser",
    "RecogniserConfig",
    "Rendered",
    "Row",
    "Step",
    "Taps",
    "Task",
    "TaskConfig",
    "TextPart",
    "TokenizerVocabulary",
    "Vocabulary",
    "Voice",
    "VoiceConfig",
    "WeightsError",
    "WeightsFiles",
    "__version__",
    "check_taps",
    "find_weights",
    "tiny_layers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kikimimi' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)
