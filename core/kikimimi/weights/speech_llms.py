"""Published speech LLMs: in which of their tensors and settings each of the three parts lies.

A component whose `weights` name such a model reads its own part of it. Names are those of the published
files, and those that transformers 5 gives them in memory (what it saves with `save_original_format=False`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kikimimi.console.words import listing
from kikimimi.errors import WeightsError
from kikimimi.weights.files import CONFIG_PATTERNS, WeightsFiles
from kikimimi.weights.find import find_weights

if TYPE_CHECKING:
    from torch import Tensor

SpeechLLMPart = Literal["encoder", "adapter", "llm"]
"""A part of a speech LLM."""


@dataclass(frozen=True)
class Place:
    """Tensors of one part.

    Attributes:
        prefix: What their names begin with in the files.
        part: The part; None is what a text LLM with ears does not have (images, speech output).
        renamed: What stands in the place of the prefix in the part.
    """

    prefix: str
    part: SpeechLLMPart | None
    renamed: str = ""


@dataclass(frozen=True)
class PublishedLayout:
    """How one type of model lies in its files.

    Attributes:
        places: The first whose prefix fits a tensor's name says whose it is.
        configs: Where the settings of a part stand in `config.json`, and the type of model that they are of
            where they do not say.
        ids: Keys of `config.json` that name a source which a part is read from where it is not in the files:
            its settings, its tokenizer, or all of it.
    """

    places: tuple[Place, ...]
    configs: Mapping[SpeechLLMPart, tuple[tuple[str, ...], str]]
    ids: Mapping[SpeechLLMPart, str] = field(default_factory=dict)


def _tower(encoder: str, adapter: str, *, whole: str = "") -> tuple[Place, ...]:
    """Return the places of a model that keeps its three parts under names of their own."""
    return (
        Place(f"{whole}{encoder}.", "encoder"),
        Place(f"{whole}{adapter}.", "adapter"),
        Place(f"{whole}language_model.", "llm"),
        Place(f"{whole}model.{encoder}.", "encoder"),
        Place(f"{whole}model.{adapter}.", "adapter"),
        Place(f"{whole}model.language_model.", "llm", "model."),
        Place(f"{whole}lm_head.", "llm", "lm_head."),
    )


def _thinker(whole: str, *projections: str) -> tuple[Place, ...]:
    """Return the places of a thinker of Qwen-Omni, whose projection lies in its audio tower."""
    towers = [f"{whole}audio_tower.", f"{whole}model.audio_tower."]
    return (
        *(Place(f"{tower}{name}.", "adapter", f"{name}.") for tower in towers for name in projections),
        *(Place(f"{tower}audio_bos_eos_token.", None) for tower in towers),
        *(Place(tower, "encoder") for tower in towers),
        Place(f"{whole}visual.", None),
        Place(f"{whole}model.visual.", None),
        Place(f"{whole}model.language_model.", "llm", "model."),
        Place(f"{whole}model.", "llm", "model."),
        Place(f"{whole}lm_head.", "llm", "lm_head."),
    )


_AUDIO, _TEXT = ("audio_config",), ("text_config",)
_PROJECTOR = _tower("audio_tower", "multi_modal_projector")
_PHI_AUDIO = "model.embed_tokens_extend.audio_embed."

LAYOUTS: dict[str, PublishedLayout] = {
    "voxtral": PublishedLayout(_PROJECTOR, {"encoder": (_AUDIO, "voxtral_encoder"), "llm": (_TEXT, "llama")}),
    "qwen2_audio": PublishedLayout(
        _PROJECTOR, {"encoder": (_AUDIO, "qwen2_audio_encoder"), "llm": (_TEXT, "qwen2")}
    ),
    "audioflamingo3": PublishedLayout(
        _PROJECTOR, {"encoder": (_AUDIO, "audioflamingo3_encoder"), "llm": (_TEXT, "qwen2")}
    ),
    "ultravox": PublishedLayout(
        _PROJECTOR,
        {"encoder": (_AUDIO, "whisper"), "llm": (_TEXT, "llama")},
        {"encoder": "audio_model_id", "llm": "text_model_id"},
    ),
    "granite_speech": PublishedLayout(
        _tower("encoder", "projector"),
        {
            "encoder": (("encoder_config",), "granite_speech_encoder"),
            "adapter": (("projector_config",), "blip_2_qformer"),
            "llm": (_TEXT, "granite"),
        },
    ),
    "qwen2_5_omni": PublishedLayout(
        (*_thinker("thinker.", "proj"), Place("talker.", None), Place("token2wav.", None)),
        {
            "encoder": (("thinker_config", "audio_config"), "qwen2_5_omni_audio_encoder"),
            "llm": (("thinker_config", "text_config"), "qwen2_5_omni_text"),
        },
    ),
    "qwen2_5_omni_thinker": PublishedLayout(
        _thinker("", "proj"),
        {"encoder": (_AUDIO, "qwen2_5_omni_audio_encoder"), "llm": (_TEXT, "qwen2_5_omni_text")},
    ),
    "qwen3_omni_moe": PublishedLayout(
        (*_thinker("thinker.", "proj1", "proj2"), Place("talker.", None), Place("code2wav.", None)),
        {
            "encoder": (("thinker_config", "audio_config"), "qwen3_omni_moe_audio_encoder"),
            "llm": (("thinker_config", "text_config"), "qwen3_omni_moe_text"),
        },
    ),
    "qwen3_omni_moe_thinker": PublishedLayout(
        _thinker("", "proj1", "proj2"),
        {"encoder": (_AUDIO, "qwen3_omni_moe_audio_encoder"), "llm": (_TEXT, "qwen3_omni_moe_text")},
    ),
    "phi4_multimodal": PublishedLayout(
        (
            Place(f"{_PHI_AUDIO}encoder.", "encoder"),
            Place(f"{_PHI_AUDIO}up_proj_for_speech.", "adapter", "up_proj_for_speech."),
            Place(f"{_PHI_AUDIO}down_proj_for_speech.", "adapter", "down_proj_for_speech."),
            Place("model.embed_tokens_extend.", None),  # images, and speech that stands beside one
            Place("model.", "llm", "model."),
            Place("lm_head.", "llm", "lm_head."),
        ),
        {"encoder": (_AUDIO, "phi4_multimodal_audio"), "llm": ((), "phi4_multimodal")},
    ),
    "llama_for_speech_lm": PublishedLayout(
        (Place("encoder.", "encoder"), Place("adapter.", "adapter"), Place("decoder.", "llm")),
        {"encoder": (("encoder_id",), "whisper"), "llm": (("decoder_config",), "llama")},
        {"encoder": "encoder_id", "llm": "decoder_id"},
    ),
}
"""Types of models by the `model_type` of `config.json`."""


@dataclass(frozen=True)
class PublishedPart:
    """One part of a published speech LLM.

    Attributes:
        files: The files of the whole.
        part: Which part.
        layout: How the whole lies in them.
    """

    files: WeightsFiles
    part: SpeechLLMPart
    layout: PublishedLayout

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the part, with its `model_type`; what is left out is as transformers has it.

        Raises:
            WeightsError: They are missing, or transformers refuses them.
        """
        if self.part not in self.layout.configs:
            return {}
        keys, default = self.layout.configs[self.part]
        value: Any = self.files.read_json("config.json")
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str):
            files = find_weights(value, patterns=CONFIG_PATTERNS)
            value = None if files is None else files.read_json("config.json")
        if not isinstance(value, dict):
            raise WeightsError(
                f"{self.files.source}: config.json: {'.'.join(keys)} is missing, or no settings"
            )
        return _filled(
            {"model_type": default, **value}, f"{self.files.source}: config.json: {'.'.join(keys)}"
        )

    @property
    def ties_head(self) -> bool:
        """Whether the settings of the whole say that the LLM's head is its embedding."""
        keys, _ = self.layout.configs["llm"]
        settings = whole = self.files.read_json("config.json")
        for key in keys[:-1]:
            settings = settings.get(key, {})
        return bool(settings.get("tie_word_embeddings") or whole.get("tie_word_embeddings"))

    @property
    def source_id(self) -> str | None:
        """What `config.json` names as the source of the part where it is not in the files, or None."""
        key = self.layout.ids.get(self.part)
        value = self.files.read_json("config.json").get(key) if key else None
        return value if isinstance(value, str) and value else None

    def state_dict(self) -> dict[str, Tensor]:
        """Read the tensors of the part under their names in it.

        Raises:
            WeightsError: A file is missing or damaged.
        """
        return self.files.state_dict(rename=self._rename)

    def tensor_names(self) -> set[str]:
        """Return the names of the tensors of the part, of which none is read."""
        return {renamed for name in self.files.tensor_names() if (renamed := self._rename(name)) is not None}

    def _rename(self, name: str) -> str | None:
        place = place_of(self.layout, name)
        if place is None or place.part != self.part:
            return None
        return place.renamed + name.removeprefix(place.prefix)


def _filled(config: dict[str, Any], where: str) -> dict[str, Any]:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        config_class = CONFIG_MAPPING[config["model_type"]]
    except (KeyError, TypeError):
        return config  # what reads it says that it is of no known type
    try:
        filled: dict[str, Any] = config_class.from_dict(config).to_dict()
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{where}: {error}") from error
    return filled


def published_part(files: WeightsFiles, part: SpeechLLMPart) -> PublishedPart | None:
    """Return a part of a published speech LLM, or None where the files are those of another kind of model.

    Raises:
        WeightsError: `config.json` is damaged.
    """
    layout = layout_of(files)
    return None if layout is None else PublishedPart(files, part, layout)


def layout_of(files: WeightsFiles) -> PublishedLayout | None:
    """Return how a speech LLM lies in its files, or None where they are those of another kind of model."""
    if "config.json" not in files.files:
        return None
    model_type = files.read_json("config.json").get("model_type")
    return LAYOUTS.get(model_type) if isinstance(model_type, str) else None


def place_of(layout: PublishedLayout, name: str) -> Place | None:
    """Return whose a tensor is, or None where it is nobody's."""
    return next((place for place in layout.places if name.startswith(place.prefix)), None)


def check_places(files: WeightsFiles, layout: PublishedLayout, names: Iterable[str]) -> None:
    """Check that every tensor of a speech LLM has a place.

    Raises:
        WeightsError: Some have none; names them.
    """
    homeless = sorted(name for name in names if place_of(layout, name) is None)
    if homeless:
        raise WeightsError(
            f"{files.source}: {len(homeless)} tensors find no place in a "
            f"{files.read_json('config.json')['model_type']!r} model: {listing(homeless)}"
        )
