"""What encoders have in common that may take published weights, and read the layers that are chosen."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from kikimimi import (
    CONFIG_PATTERNS,
    FETCHED_PATTERNS,
    Combine,
    ComponentConfig,
    Encoder,
    LayerCombiner,
    LayerCount,
    Layers,
    Options,
    PositiveInt,
    WeightsError,
    WeightsFiles,
    check_layers,
    find_weights,
    load_state,
    published_part,
    tiny_layers,
)

SAMPLE_RATE = 16000


@dataclass(kw_only=True, frozen=True)
class Sizes(Options):
    """Sizes that every encoder with random weights has."""

    dim: PositiveInt = 768
    """Width E of the frames."""
    num_layers: LayerCount = 12
    """Layers."""
    num_heads: PositiveInt = 12
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 3072
    """Inner width of the feed-forward network."""

    def __post_init__(self) -> None:
        self.check_divisors("num_heads")

    def check_divisors(self, *names: str) -> None:
        """Check that the fields of these names divide the width, `dim`.

        Raises:
            ValueError: One does not.
        """
        for name in names:
            if self.dim % getattr(self, name):
                raise ValueError(f"sizes.{name} ({getattr(self, name)}) must divide sizes.dim ({self.dim})")

    @classmethod
    def read(cls, config: Mapping[str, Any], names: Mapping[str, str], source: str) -> Self:
        """Read sizes that a checkpoint's config holds under names of its own.

        Args:
            config: The config.
            names: The config's name of each size.
            source: Where it is from, for the message.

        Raises:
            WeightsError: They are missing or impossible.
        """
        try:
            return cls(**{size: config[name] for size, name in names.items()})
        except KeyError as error:
            raise WeightsError(f"{source}: config.json lacks {error}") from error
        except ValueError as error:
            raise WeightsError(f"{source}: config.json: {error}") from error


@dataclass(kw_only=True, frozen=True)
class PretrainedConfig(ComponentConfig):
    """Options that all of these encoders have."""

    weights: str = "random"
    """A model of transformers: a Hub id, a folder, `package:...`; or `random`."""
    layers: Layers | None = None
    """Layers to read, ascending, from 0 (what enters the first one) up; None is the last. Those above are not
    built."""
    combine: Combine = "concat"
    """What becomes of several layers: side by side, or a sum with learned weights."""
    sizes: Sizes | None = None
    """Sizes with `weights: random` (None: the published ones); refused with any other weights."""

    def __post_init__(self) -> None:
        check_layers(self.layers, self.combine)
        if self.weights != "random" and self.sizes is not None:
            raise ValueError(f"sizes is read only with weights: random, not with {self.weights!r}")


class PretrainedEncoder(Encoder):
    """Base of the encoders; it finds the sizes, chooses the layers, and loads the weights into `model`.

    A member sets the class attributes, reads the sizes of a checkpoint, and in its constructor calls
    `choose_layers` and builds `model`, up to the highest layer that is read.

    Attributes:
        name: Registered name, for messages.
        sizes_class: What the option `sizes` is.
        tiny_sizes: Sizes of the tiny variant.
        prefixes: What the names of the model's tensors begin with in a checkpoint that is no speech LLM: the
            first that finds any.
        config_patterns: Files that the sizes are read from.
        weight_patterns: Files that the weights are read from.
        stack: Name of the layers inside `model`.
        stem: Name of what stands before them, the block to shard where no layer is built.
        sizes: What the model is built of: sizes, or transformers' config.
        taps: Combines the layers that are read; named so in checkpoints.
        num_layers: Layers of the whole model.
    """

    name: ClassVar[str]
    sizes_class: ClassVar[type[Sizes]]
    tiny_sizes: ClassVar[Mapping[str, Any]] = {"dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64}
    prefixes: ClassVar[tuple[str, ...]] = ("",)
    config_patterns: ClassVar[tuple[str, ...]] = CONFIG_PATTERNS
    weight_patterns: ClassVar[tuple[str, ...]] = FETCHED_PATTERNS
    stack: ClassVar[str] = "layers"
    stem: ClassVar[str]
    sample_rate = SAMPLE_RATE
    max_seconds: float | None = None
    config: Any
    sizes: Any
    model: Any
    taps: LayerCombiner
    num_layers: int

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        # The weights themselves are fetched by `load_weights`.
        files = find_weights(config.weights, patterns=self.config_patterns)
        self.sizes = self.new_sizes(config.sizes or self.sizes_class()) if files is None else self.read(files)

    def new_sizes(self, sizes: Any) -> Any:
        """Return what a model with random weights is built of; default: the sizes themselves."""
        return sizes

    @abstractmethod
    def read(self, files: WeightsFiles) -> Any:
        """Read what the model of a checkpoint is built of.

        Raises:
            WeightsError: It is another model, or its config is incomplete or impossible.
        """

    def choose_layers(self, *, num_layers: int, dim: int) -> int:
        """Choose the layers that are read: set `taps`, `num_layers`, `num_concat_layers` and `dim`.

        Args:
            num_layers: Layers of the whole model.
            dim: Width of what leaves one layer.

        Returns:
            The highest layer that is read: those above need not be built.

        Raises:
            ValueError: The model has no such layer.
        """
        self.taps = LayerCombiner(self.config.layers, self.config.combine, num_layers)
        self.num_layers = num_layers
        self.num_concat_layers = self.taps.num_concat_layers
        self.dim = dim * self.num_concat_layers
        return self.taps.layers[-1]

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a config of 2 layers x 32 with random weights and else the options of `config`."""
        given: Any = cls.Config() if config is None else config
        sizes = replace(given.sizes or cls.sizes_class(), **cls.tiny_sizes)
        return replace(
            given, weights="random", sizes=sizes, layers=tiny_layers(given.layers, sizes.num_layers)
        )

    def load_weights(self) -> None:
        """Fill from safetensors of the bare model or of one that it is part of.

        Raises:
            WeightsError: The tensors do not fit.
        """
        files = find_weights(self.config.weights, patterns=self.weight_patterns)
        if files is not None:
            self.fill(self.state(files), files.source)

    def state(self, files: WeightsFiles) -> dict[str, Tensor]:
        """Read the tensors of a checkpoint under their names in `model`."""
        part = published_part(files, "encoder")
        if part is not None:
            return part.state_dict()
        return next((state for prefix in self.prefixes if (state := files.state_dict(prefix))), {})

    def fill(self, state: Mapping[str, Tensor], source: str) -> None:
        """Fill the model from the tensors of a checkpoint."""
        load_state(self.model, state, source=source, ignore=self.unread())

    def unread(self) -> list[str]:
        """Return patterns (`layers.7.*`) of the tensors of a whole model that are not built."""
        layers = [f"{self.stack}.{number}.*" for number in range(self.taps.layers[-1], self.num_layers)]
        # The norm at the very end is not built where the last layer is not read.
        return [*layers, "layer_norm.*"] if getattr(self.model, "layer_norm", self) is None else layers

    def pretrained_names(self) -> set[str]:
        """Return all names but that of the weights of the layers' sum, which are always new."""
        return super().pretrained_names() - {"taps.weight"}

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the class of the layers; where none is built, that of what stands before them."""
        layers = {type(layer) for layer in self.model.get_submodule(self.stack)}
        return layers or {type(self.model.get_submodule(self.stem))}


def read_config(files: WeightsFiles, encoder: str, *model_types: str) -> dict[str, Any]:
    """Read the `config.json` of a checkpoint; of a published speech LLM, what it says of the encoder.

    Args:
        files: The checkpoint.
        encoder: Registered name of the encoder, for the message.
        model_types: Types of encoders, and of models that are not speech LLMs, that the encoder takes.

    Raises:
        WeightsError: There is no such file, or it is that of another type of model.
    """
    part = published_part(files, "encoder")
    config: dict[str, Any] = files.read_json("config.json") if part is None else part.config
    found = config.get("model_type")
    if found not in model_types:
        raise WeightsError(
            f"{files.source}: is a {found!r} model; encoder '{encoder}' takes "
            f"{', '.join(map(repr, model_types))}, alone or inside a speech LLM"
        )
    return config


def read_front_end(files: WeightsFiles) -> tuple[dict[str, Any], str] | None:
    """Read what a checkpoint says of its feature extractor.

    transformers 5 writes it inside the processor's file where a processor is saved, earlier ones beside it.

    Returns:
        The settings, and the place for messages; None where no file says it.

    Raises:
        WeightsError: A file is no mapping.
    """
    name, processor = "preprocessor_config.json", "processor_config.json"
    if name in files.files:
        return files.read_json(name), f"{files.source}: {name}"
    settings = files.read_json(processor) if processor in files.files else {}
    for part in ("feature_extractor", "audio_processor"):
        if isinstance(settings.get(part), dict):
            return settings[part], f"{files.source}: {processor}: {part}"
    return None


def check_expected(given: Mapping[str, Any], expected: Mapping[str, Any], where: str, encoder: str) -> None:
    """Check that the settings of a checkpoint are those that the encoder is written for.

    Args:
        given: The settings; where one is missing, it is as expected.
        expected: Names and values of those that cannot be otherwise.
        where: The source and its file, for the message.
        encoder: Registered name of the encoder, for the message.

    Raises:
        WeightsError: One is something else.
    """
    for option, value in expected.items():
        if given.get(option, value) != value:
            raise WeightsError(
                f"{where}: {option} is {given[option]!r}, and encoder '{encoder}' takes only {value!r}"
            )


_MOST_LAYERS = 1000
_LAYER_COUNTS = ("num_hidden_layers", "num_blocks", "num_layers")
"""What configs call the number of layers."""


def build_config(config_class: Any, config: Mapping[str, Any], source: str) -> Any:
    """Build transformers' config.

    Raises:
        WeightsError: transformers refuses it.
    """
    for name in _LAYER_COUNTS:
        layers = config.get(name, 1)
        if not (isinstance(layers, int) and 1 <= layers <= _MOST_LAYERS):
            raise WeightsError(
                f"{source}: config.json: {name}: must be between 1 and {_MOST_LAYERS}, not {layers!r}"
            )
    try:
        return config_class.from_dict(config)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"{source}: config.json: {error}") from error
