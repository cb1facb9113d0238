"""A trained model that is to take the shape of one that people serve: what each shape asks, and its files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.precision import DTYPES
from kikimimi.model.assembly import pretrained_encoder
from kikimimi.model.lora import has_updates
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.published.prompts import served_template
from kikimimi.recipe import Recipe
from kikimimi.recipe.chosen import Chosen

if TYPE_CHECKING:
    from torch import Tensor, nn

_POSITIONS = 1500
"""Frames of Whisper's window of 30 s, which the processors of all shapes know."""


CONFIG = "config.json"
"""The settings, as transformers has them."""


@dataclass(frozen=True)
class Trained:
    """A model, and how it is to be written.

    Attributes:
        recipe: Its recipe.
        model: The model.
        audio_token: Token of its tokenizer that stands for clips; None is the one that is usual in a shape.
        lora: `merge` low-rank updates of the LLM into the weights, or `keep` them as files of peft; None
            keeps those that act on audio alone.
        dtype: Number format of the weights.
        filled: Whether the model has its weights; none where only its fit is asked for.
    """

    recipe: Recipe
    model: SpeechLM
    audio_token: str | None = None
    lora: str | None = None
    dtype: str = "fp32"
    filled: bool = True

    @property
    def keep_lora(self) -> bool:
        """Whether low-rank updates of the LLM are kept, or merged."""
        updates = self.recipe.llm.lora
        if self.lora is None:
            return updates is not None and updates.modality == "audio"
        return self.lora == "keep"

    @cached_property
    def encoder(self) -> Any:
        """The encoder with the weights that never train, which are those of its source."""
        return self.model.encoder if self.filled else pretrained_encoder(self.recipe)

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer."""
        return self.model.llm.tokenizer

    @property
    def text(self) -> Any:
        """The model of transformers inside the LLM."""
        return self.model.llm.model

    @property
    def is_tied(self) -> bool:
        """Whether the LLM's head is its embedding."""
        head = self.text.get_output_embeddings()
        return head is not None and head.weight is self.text.get_input_embeddings().weight

    def placeholder(self, usual: str) -> str:
        """Return the token that stands for clips."""
        return self.audio_token or usual

    def own_tokenizer(self, usual: str) -> Any:
        """Return a copy of the tokenizer that has the token which stands for clips."""
        tokenizer, token = deepcopy(self.tokenizer), self.placeholder(usual)
        if token not in tokenizer.get_vocab():
            tokenizer.add_special_tokens(
                {"additional_special_tokens": [token]}, replace_extra_special_tokens=False
            )
        return tokenizer

    def encoder_tensors(self) -> dict[str, Tensor]:
        """Return the encoder's tensors by transformers' names."""
        return self._tensors(self.model.encoder.model)  # type: ignore[arg-type]

    def adapter_tensors(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Return the adapter's tensors, with other names of its modules."""
        state = self._tensors(self.model.adapter)
        named = {}
        for name, value in state.items():
            module, dot, kind = name.rpartition(".")
            named[names.get(module, module) + dot + kind] = value
        return named

    def llm_tensors(self) -> dict[str, Tensor]:
        """Return the LLM's tensors by transformers' names, without a head that is its embedding."""
        state = self._tensors(self.text, keep=self.keep_lora)
        if self.is_tied:
            state.pop("lm_head.weight", None)
        return state

    def published_tensors(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """Return all tensors as most published models call their parts.

        Args:
            names: What the adapter's layers are called there, by their names here.
        """
        return {
            **prefixed("audio_tower.", self.encoder_tensors()),
            **prefixed("multi_modal_projector.", self.adapter_tensors(names)),
            **prefixed("language_model.", self.llm_tensors()),
        }

    def _tensors(self, part: nn.Module, *, keep: bool = False) -> dict[str, Tensor]:
        """Return tensors in the number format that is written, low-rank updates merged or left out."""
        dtype = DTYPES[self.dtype]
        updated = {name: module for name, module in part.named_modules() if has_updates(module)}
        state: dict[str, Tensor] = {}
        for name, value in part.state_dict().items():
            if ".lora_" in name:
                continue
            layer, inner, kind = name.rpartition(".base_layer.")
            tensor = value.detach()
            if inner and kind == "weight" and not keep:
                update: Any = updated[layer]
                tensor = tensor.float() + update.get_delta_weight("default").detach().float()
            if tensor.is_floating_point():
                tensor = tensor.to(dtype)
            state[f"{layer}.{kind}" if inner else name] = tensor
        return state


def needs(where: str, options: Any, **allowed: Any) -> list[str]:
    """Return what is wrong with options of a part.

    Args:
        where: The part.
        options: Its options.
        allowed: The value that each option has to have; several in a tuple.
    """
    found = []
    for name, values in allowed.items():
        given = getattr(options, name)
        choices = values if isinstance(values, tuple) else (values,)
        if given not in choices:
            said = " or ".join(_said(value) for value in choices)
            found.append(f"{where}.{name} is {_said(given)}, needs {said}")
    return found


def _said(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def part_problems(where: str, chosen: Chosen, names: Collection[str]) -> list[str]:
    """Return what is wrong with which plugin a part is; the options of the right one can be asked."""
    if chosen.name in names:
        return []
    return [f"{where} is {chosen.name}, needs {' or '.join(names)}"]


def tower_problems(trained: Trained, name: str, **allowed: Any) -> list[str]:
    """Return what keeps an encoder of Whisper's family from a shape.

    Args:
        trained: The model.
        name: The encoder that the shape has.
        allowed: The values of its options, as `needs` takes them.
    """
    chosen = trained.recipe.encoder
    if wrong := part_problems("encoder", chosen, [name]):
        return wrong
    found = needs("encoder", chosen.config, **allowed)
    sizes: Any = trained.model.encoder.sizes
    if chosen.config.layers not in (None, [sizes.num_layers], (sizes.num_layers,)):
        found.append(
            f"encoder.layers is {list(chosen.config.layers)}, needs {sizes.num_layers}, the last alone"
        )
    if not getattr(chosen.config, "final_norm", True):
        found.append("encoder.final_norm is false, needs true")
    if sizes.num_positions != _POSITIONS:
        found.append(
            f"the encoder's window has {sizes.num_positions} frames, needs {_POSITIONS}: the processor there "
            "knows 30 s alone"
        )
    return found


def llm_problems(
    trained: Trained, types: Collection[str] | None, usual: str | None, *, gated: bool = False
) -> list[str]:
    """Return what keeps an LLM from a shape.

    Args:
        trained: The model.
        types: Model types of transformers that the served class runs; None is any decoder.
        usual: The token that stands for clips there; None where none has to be one.
        gated: Whether low-rank updates act there where audio is present alone.
    """
    if not hasattr(trained.model.llm, "chat"):
        return [f"llm is {trained.recipe.llm.name}, needs a decoder (llama, causal_lm, llm_jp)"]
    found = []
    kind = trained.text.config.model_type
    if types is not None and kind not in types:
        found.append(f"llm is a {kind!r} model, needs {' or '.join(types)}: the served class runs no other")
    if usual is not None:
        found += _token_problems(trained, usual)
    lora = trained.recipe.llm.lora
    if lora is not None and lora.modality == "audio" and not gated:
        found.append(
            "llm.lora.modality is audio, needs any: there, updates act on text alone, too, and change the "
            "answers to it"
        )
    return found


def _token_problems(trained: Trained, usual: str) -> list[str]:
    token, vocabulary = trained.placeholder(usual), trained.tokenizer.get_vocab()
    rows = trained.text.get_input_embeddings().weight.shape[0]
    if token in vocabulary:
        if vocabulary[token] < rows:
            return []
        return [f"token {token!r} is {vocabulary[token]}, and the LLM embeds {rows}"]
    if trained.audio_token is not None:
        return [f"--audio-token {token!r} is no token of the LLM's tokenizer"]
    if max(vocabulary.values()) + 1 < rows:
        return []
    return [
        f"the LLM's tokenizer has no token {token!r}, and its embedding no row for a new one: name a token "
        "that is never written with --audio-token"
    ]


def rope_names(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a text model with rotary positions under the older names, too."""
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        rest = {name: value for name, value in rope.items() if name != "rope_theta"}
        scaled = rest.get("rope_type", "default") != "default"
        return {**config, "rope_theta": rope["rope_theta"], "rope_scaling": rest if scaled else None}
    return config


def text_settings(trained: Trained) -> dict[str, Any]:
    """Return the settings of the LLM, as they stand within those of a whole."""
    settings: dict[str, Any] = deepcopy(trained.text.config.to_dict())
    for name in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        settings.pop(name, None)
    return {
        **rope_names(settings),
        "architectures": [type(trained.text).__name__],
        "tie_word_embeddings": trained.is_tied,
    }


@dataclass(frozen=True)
class Files:
    """The files of a shape.

    Attributes:
        config: Content of `config.json`, but for the number format.
        tensors: Tensors by the names that published files have.
        processor: Returns what writes the files of processor and tokenizer (`save_pretrained`), from the
            tokenizer and the chat template.
        heard: What padding changes in what is heard there.
        model_class: Name of transformers' class; None where it has none.
        renamed: Names in memory by those of the files, as far as a prefix goes.
        config_name: File of the settings; where it is not that of transformers, they are written as they are.
        weights_name: What the files of the weights are called.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    processor: Callable[[Any, str], Any]
    heard: str
    model_class: str | None = None
    renamed: Mapping[str, str] = field(
        default_factory=lambda: {
            "audio_tower.": "model.audio_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
            "language_model.model.": "model.language_model.",
            "language_model.lm_head.": "lm_head.",
        }
    )
    config_name: str = CONFIG
    weights_name: str = "model"


@dataclass(frozen=True)
class Format:
    """A shape.

    Attributes:
        token: The token that usually stands for clips in prompts.
        parts: Says, in words of recipe options, why a model's parts do not fit; nothing where they do.
        files: Returns the files of a model that fits.
        chat: Whether prompts are made by a chat template.
        named: Whether a token of the user's choice stands in prompts, too, or in the model alone.
    """

    token: str
    parts: Callable[[Trained], list[str]]
    files: Callable[[Trained], Files]
    chat: bool = True
    named: bool = True

    def placeholder(self, trained: Trained) -> str:
        """Return the token that stands for clips in prompts."""
        return trained.placeholder(self.token) if self.named else self.token

    def tokenizer(self, trained: Trained) -> Any:
        """Return the tokenizer that is written, with the run's chat template if there is one there."""
        if not self.chat:
            return trained.tokenizer
        placeholder = self.placeholder(trained)
        tokenizer = trained.own_tokenizer(placeholder)
        tokenizer.chat_template = served_template(trained.model.llm, placeholder)
        return tokenizer

    def problems(self, trained: Trained) -> list[str]:
        """Return why a model does not fit: its parts, or its prompts; nothing where it does."""
        found = self.parts(trained)
        if found or not self.chat:
            return found
        return prompt_problems(trained, self.tokenizer(trained), self.placeholder(trained))


_ASKED = Conversation((Message("user", (AudioPart("a.flac"), TextPart("Write what is said."))),))


def prompt_problems(trained: Trained, tokenizer: Any, token: str) -> list[str]:
    """Return why a prompt has other ids there than in the run, or its token stands for more than clips."""
    llm: Any = trained.model.llm
    rendered = llm.render(_ASKED, generate=True)
    audio = tokenizer.convert_tokens_to_ids(token)
    expected = [audio if place in rendered.slots else number for place, number in enumerate(rendered.ids)]
    if expected.count(audio) > len(rendered.slots) and token in tokenizer.get_vocab():
        return [
            f"token {token!r} stands in prompts already, where it is no clip: name another with --audio-token"
        ]
    parts = [{"type": "audio"}, {"type": "text", "text": "Write what is said."}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    if token not in tokenizer.get_vocab():  # what replaces it counts no text
        before, after = (tokenizer.encode(part, add_special_tokens=False) for part in text.split(token))
        place = rendered.slots[0]
        found, expected = before + after, [*rendered.ids[:place], *rendered.ids[place + 1 :]]
    else:
        found = tokenizer.encode(text, add_special_tokens=False)
    if found == expected:
        return []
    return [
        f"the tokenizer writes a prompt with other ids there ({found}) than in the run ({expected}), so that "
        "the model would be asked otherwise"
    ]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with something before their names."""
    return {prefix + name: value for name, value in tensors.items()}


def whisper_settings(trained: Trained, names: Mapping[str, str], **others: Any) -> dict[str, Any]:
    """Return the settings of an encoder of Whisper's family.

    Args:
        trained: The model.
        names: What the settings call `Sizes`' fields.
        others: Further settings.
    """
    sizes: Any = trained.model.encoder.sizes
    return {
        **{theirs: getattr(sizes, ours) for ours, theirs in names.items()},
        "activation_function": "gelu",
        "scale_embedding": False,
        **others,
    }


WHISPER_SIZES = {
    "dim": "d_model",
    "num_layers": "encoder_layers",
    "num_heads": "encoder_attention_heads",
    "ffn_dim": "encoder_ffn_dim",
    "num_mels": "num_mel_bins",
    "num_positions": "max_source_positions",
}
LATER_WHISPER_SIZES = {
    **WHISPER_SIZES,
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
}


def featured(class_name: str, config: Mapping[str, Any], token: str) -> Callable[[Any, str], Any]:
    """Return what makes a processor of Whisper's features, by the name of its class in transformers."""

    def processor(tokenizer: Any, template: str) -> Any:
        import transformers

        features = transformers.WhisperFeatureExtractor(feature_size=config["audio_config"]["num_mel_bins"])
        processor_class: Any = getattr(transformers, class_name)
        return processor_class(features, tokenizer, chat_template=template, audio_token=token)

    return processor


def whole_config(class_name: str, **settings: Any) -> dict[str, Any]:
    """Return what transformers writes of a configuration, whole, without what the number format is."""
    import transformers

    config = getattr(transformers, class_name)(**settings).to_dict()
    config["text_config"] = rope_names(config["text_config"])
    return dict(config)
