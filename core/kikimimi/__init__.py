"""kikimimi gives a text LLM ears: speech-aware language models from plugins and recipes.

Names are imported when first used, so that ``import kikimimi`` costs no torch import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kikimimi.conversation import AudioPart, Conversation, Message, TextPart
    from kikimimi.errors import AudioError, DataError, KikimimiError, PluginError, RecipeError, WeightsError
    from kikimimi.generation import Generation
    from kikimimi.interfaces import (
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
    from kikimimi.layout import Layout, LayoutConfig, Row
    from kikimimi.normaliser import Normaliser
    from kikimimi.objective import Loss, Objective, ObjectiveConfig, Step
    from kikimimi.recipe.chosen import Chosen
    from kikimimi.recogniser import Recogniser, RecogniserConfig
    from kikimimi.taps import Combine, Taps, check_taps, tiny_layers
    from kikimimi.task import Task, TaskConfig
    from kikimimi.vocabulary import CharacterVocabulary, TokenizerVocabulary, Vocabulary
    from kikimimi.voice import Voice, VoiceConfig
    from kikimimi.weights import WeightsFiles, find_weights

__version__ = "0.1.0"

_HOMES = {
    "kikimimi.conversation": ("AudioPart", "Conversation", "Message", "TextPart"),
    "kikimimi.errors": (
        "AudioError",
        "DataError",
        "KikimimiError",
        "PluginError",
        "RecipeError",
        "WeightsError",
    ),
    "kikimimi.generation": ("Generation",),
    "kikimimi.interfaces": (
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
    "kikimimi.layout": ("Layout", "LayoutConfig", "Row"),
    "kikimimi.normaliser": ("Normaliser",),
    "kikimimi.objective": ("Loss", "Objective", "ObjectiveConfig", "Step"),
    "kikimimi.recipe.chosen": ("Chosen",),
    "kikimimi.recogniser": ("Recogniser", "RecogniserConfig"),
    "kikimimi.taps": ("Combine", "Taps", "check_taps", "tiny_layers"),
    "kikimimi.task": ("Task", "TaskConfig"),
    "kikimimi.vocabulary": ("CharacterVocabulary", "TokenizerVocabulary", "Vocabulary"),
    "kikimimi.voice": ("Voice", "VoiceConfig"),
    "kikimimi.weights": ("WeightsFiles", "find_weights"),
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
