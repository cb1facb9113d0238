"""A plugin as a recipe names it: its options, and the low-rank adaptation of a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import MinLen

from kikimimi.contracts import registry
from kikimimi.contracts.options import Options, PositiveFloat, PositiveInt, Probability

PartName = Literal["encoder", "adapter", "llm"]
PARTS: tuple[PartName, ...] = get_args(PartName)
Dtype = Literal["fp32", "bf16", "fp16"]
"""Names of number formats."""
OF_PARTS = ("lora", "dtype", "fixed")
"""Options that encoder, adapter and LLM have beside those of the plugin's own `Config`."""


@dataclass(kw_only=True, frozen=True)
class LoRA(Options):
    """Low-rank adaptation (Hu et al., 2021, https://arxiv.org/abs/2106.09685) of a part's linear layers."""

    weights: str = "random"
    """Where the update starts: what peft has written (`adapter_model.safetensors`) in a folder, a Hub id or a
    `package:...`, with /FILE where it is not alone there; or `random`, which changes nothing untrained."""
    rank: PositiveInt = 16
    """Rank of the update."""
    alpha: PositiveFloat = 32.0
    """Numerator of the update's scale, alpha / rank."""
    dropout: Probability = 0.0
    """Probability of zeroing an input of the update."""
    targets: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Last names of the linear layers that are adapted."""
    modality: Literal["any", "audio"] = "any"
    """Where the update acts: everywhere, or only in conversations that hold audio, so that the LLM answers
    text alone exactly as it did before (Phi-4-Multimodal, arXiv 2503.01743)."""


@dataclass(kw_only=True, frozen=True)
class Chosen(Options):
    """A plugin that a recipe names, with its options."""

    kind: str
    """Kind of the plugin, as `kikimimi.contracts.registry` spells it."""
    name: str
    """Registered name."""
    config: Any
    """Instance of the plugin's nested `Config`."""
    lora: LoRA | None = None
    """Low-rank adaptation of an encoder, an adapter or an LLM; None means none."""
    dtype: Dtype = "fp32"
    """Number format of an encoder's, an adapter's or an LLM's weights. Low-rank updates are fp32 in any case,
    and a stage that trains the weights themselves needs fp32."""
    fixed: Annotated[list[Annotated[str, MinLen(1)]], MinLen(1)] | None = None
    """Parameters of an encoder, an adapter or an LLM that no stage trains, though no source may fill them:
    patterns of names in fnmatch style. Without, those that neither happens to are an error."""

    @classmethod
    def of(cls, kind: str, name: str, **options: Any) -> Chosen:
        """Choose a plugin with options of its `Config`; the others keep their defaults.

        Raises:
            PluginError: It is not registered or cannot be loaded.
        """
        return cls(kind=kind, name=name, config=registry.load(kind, name).Config(**options))

    @property
    def component(self) -> type[Any]:
        """The plugin's class.

        Raises:
            PluginError: It cannot be loaded.
        """
        return registry.load(self.kind, self.name)

    def sources(self) -> dict[str, str]:
        """Return where weights come from: option `weights`, those ending in `_weights`, and an update's."""
        options = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        named = {n: value for n, value in options.items() if n == "weights" or n.endswith("_weights")}
        found = {n: value for n, value in named.items() if not isinstance(value, Mapping)}  # factors of terms
        update = None if self.lora is None or self.lora.weights == "random" else self.lora.weights
        return found if update is None else {**found, "lora.weights": update}

    def nested(self) -> dict[str, Chosen]:
        """Return the plugins that the options name with options of their own, by dotted option."""
        found = ((where, value) for where, _, value in plugins_in(self.config))
        return {where: value for where, value in found if isinstance(value, Chosen)}


def plugins_in(value: Any, where: str = "", kind: str = "") -> Iterator[tuple[str, str, Chosen | str]]:
    """Yield the plugins that a value names, but for those inside others: dotted key, kind, and the choice.

    Args:
        value: A recipe, a section of it, or a plugin's `Config`.
        where: Dotted key of the value.
        kind: Kind of the plugin that the value names if it is a text; empty where it names none.
    """
    if isinstance(value, Chosen):
        yield where, value.kind, value
    elif kind and isinstance(value, str):
        yield where, kind, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from plugins_in(inner, f"{where}.{key}", kind)
    elif is_dataclass(value):
        for item in fields(value):
            name = f"{where}.{item.name}" if where else item.name
            yield from plugins_in(getattr(value, item.name), name, item.metadata.get("kind", ""))
