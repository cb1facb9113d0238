"""Learned queries read the frames through a small transformer: of each window, or of the whole clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerLayer

from kikimimi import (
    CONFIG_PATTERNS,
    Adapter,
    AdapterContext,
    AdapterOutput,
    ComponentConfig,
    LayerCount,
    Padded,
    PositiveFloat,
    PositiveInt,
    Probability,
    PublishedPart,
    WeightsError,
    WeightsFiles,
    find_weights,
    load_state,
    published_part,
)
from kikimimi_adapters.attention import attend
from kikimimi_adapters.frame_groups import FrameGroups

Attended = tuple[Tensor, Tensor]
"""What n groups of queries look at: (n, K, E) frames, finite also where they are not real, and (n, K) bool,
true where they are: at least once for each group."""

NORM_EPS = 1e-12
"""Epsilon of the LayerNorms inside the Q-Former, as in BERT."""
INIT_STD = 0.02
"""Standard deviation of every linear layer's first weights, as in BERT."""


class QFormerLayer(Blip2QFormerLayer):  # type: ignore[misc]
    """Self-attention of the queries, cross-attention to the frames, feed-forward; post-norm.

    The parts are transformers'. Its own forward pass takes all groups of queries to one tensor of frames.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden: Tensor, sources: Sequence[Attended]
    ) -> Tensor:
        """Transform (N, Q, H) queries; the first groups look at the first source, and so on."""
        hidden = self._look(self.attention, hidden, hidden, None)
        if self.has_cross_attention:
            groups = torch.split(hidden, [len(frames) for frames, _ in sources])
            hidden = torch.cat(
                [
                    self._look(self.crossattention, group, frames, mask)
                    for group, (frames, mask) in zip(groups, sources, strict=True)
                ]
            )
        out: Tensor = self.output_query(self.intermediate_query(hidden), hidden)
        return out

    def _look(self, block: Any, hidden: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Run a `Blip2QFormerAttention` by torch's fused kernels: from (N, Q, H) to (N, K, width)."""
        inner = block.attention
        mixed = attend(
            inner.query(hidden),
            inner.key(source),
            inner.value(source),
            mask,
            num_heads=inner.num_attention_heads,
            dropout=inner.config.attention_probs_dropout_prob if self.training else 0.0,
        )
        out: Tensor = block.output(mixed, hidden)
        return out


class QFormer(nn.Module):
    """Querying transformer (BLIP-2: Li et al. 2023, arXiv 2301.12597), for queries alone.

    Equals transformers' `Blip2QFormerModel` and takes its state dict, except that with `input_norm: false`
    there is no `layernorm` of the queries.

    Args:
        config: Options with `num_layers`, `hidden_dim` (H, the width of the queries), `num_heads`, `ffn_dim`
            and `dropout`, a probability, on attention weights and before each residual.
        source_dim: Width of the frames.
        num_queries: Queries in a group. A query that is alone can only attend to itself, so the query and key
            layers of its self-attention change nothing: they are kept for the reference's shape, and frozen.
        cross_attention_frequency: The first of so many layers attends to the frames.
        input_norm: Whether the queries pass a LayerNorm and a dropout first.
    """

    def __init__(
        self,
        config: Any,
        *,
        source_dim: int,
        num_queries: int = 1,
        cross_attention_frequency: int = 1,
        input_norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = Blip2QFormerConfig(
            hidden_size=config.hidden_dim,
            encoder_hidden_size=source_dim,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            cross_attention_frequency=cross_attention_frequency,
            attention_probs_dropout_prob=config.dropout,
            hidden_dropout_prob=config.dropout,
            layer_norm_eps=NORM_EPS,
            use_qformer_text_input=False,
        )
        self.layernorm = nn.LayerNorm(config.hidden_dim, eps=NORM_EPS) if input_norm else None
        self.dropout = nn.Dropout(config.dropout)
        layers = nn.ModuleList(QFormerLayer(sizes, number) for number in range(config.num_layers))
        self.encoder: Any = nn.ModuleDict({"layer": layers})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
            if isinstance(module, QFormerLayer) and num_queries == 1:
                module.attention.attention.query.requires_grad_(False)
                module.attention.attention.key.requires_grad_(False)

    def forward(self, queries: Tensor, sources: Sequence[Attended]) -> Tensor:
        """Let groups of queries look at frames, each group at its own.

        Args:
            queries: (N, Q, H).
            sources: The frames of the groups in order, which may lie in several tensors where their numbers
                are far apart. However many there are, each layer is called once: under FSDP every rank has to
                call the layers equally often.

        Returns:
            (N, Q, H).
        """
        if self.layernorm is not None:
            queries = self.dropout(self.layernorm(queries))
        for layer in self.encoder["layer"]:
            queries = layer(queries, sources)
        return queries


class QFormerAdapter(Adapter):
    """A Q-Former over windows of the clip, or over all of it.

    The defaults are SALMONN's window-level Q-Former (Tang et al. 2023, arXiv 2310.13289): one query for each
    third of a second, BERT-base's sizes, two layers. There the windows cover the 30 s that the encoder gives,
    silence included, and only the last four frames of those are dropped: `remainder: drop` with an encoder
    that keeps the silence. Without the silence, `keep` loses none of a clip.

    With `window_seconds: null` the queries see the whole clip, as in DeSTA2 (Lu et al. 2024, arXiv
    2409.20007, `QformerConnector` of its code: `num_queries: 64, query_norm: false, output_norm: true`).
    Where the encoder hands on several layers, each has its own queries, all pass through one Q-Former, and
    each query mixes what it read from the layers by a softmax of its own, as there.

    With `num_queries: 3, window_seconds: 0.3, remainder: pad` and the sizes `hidden_dim: 1024, num_heads: 16,
    ffn_dim: 4096` it is the projector of Granite-Speech (Saon et al. 2025, arXiv 2505.08699; transformers'
    `GraniteSpeechEncoderProjector`) after an encoder of 50 frames a second, whose weights it takes.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `qformer` adapter."""

        weights: str = "random"
        """A Granite-Speech of transformers, whose projector is taken (a Hub id, a folder, `package:...`),
        or `random`. The other options have to say its sizes."""
        num_queries: PositiveInt = 1
        """Queries, which are audio tokens, per window; or per clip without windows."""
        window_seconds: PositiveFloat | None = 0.333333
        """Length of the windows, which do not overlap [s], rounded to whole frames; null: one per clip."""
        remainder: Literal["keep", "drop", "pad"] = "keep"
        """What becomes of the frames that do not fill the last window: a window of their own; dropped and
        counted (a clip shorter than one window is kept); or a window that zeros fill, which the queries read
        as they read frames. Only the default is taken without windows."""
        num_layers: LayerCount = 2
        """Transformer layers."""
        hidden_dim: PositiveInt = 768
        """Width of the queries."""
        num_heads: PositiveInt = 12
        """Attention heads; they divide `hidden_dim`."""
        ffn_dim: PositiveInt = 3072
        """Inner width of the feed-forward networks."""
        cross_attention_frequency: PositiveInt = 1
        """The first of so many layers attends to the frames (BLIP-2: 2)."""
        dropout: Probability = 0.1
        """Dropout probability, on attention weights and before residuals."""
        query_norm: bool = True
        """Whether queries pass a LayerNorm before the first layer. They start at a deviation of 0.02 with it,
        of 1 without."""
        output_norm: bool = False
        """Whether a LayerNorm stands before the projection to the LLM's width."""

        def __post_init__(self) -> None:
            if self.hidden_dim % self.num_heads:
                raise ValueError(f"num_heads ({self.num_heads}) must divide hidden_dim ({self.hidden_dim})")
            if self.window_seconds is None and self.remainder != "keep":
                raise ValueError("remainder is read only with window_seconds")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.window: int | None = None
        if config.window_seconds is not None:
            self.window = round(config.window_seconds * context.frame_rate)
            if self.window < 1:
                raise ValueError(
                    f"window_seconds ({config.window_seconds}) is less than half a frame: the encoder gives "
                    f"{context.frame_rate:g} frames per second"
                )
        files = find_weights(config.weights, patterns=CONFIG_PATTERNS)
        if files is not None:
            self._check_sizes(files)
        queries = torch.empty(context.num_concat_layers, config.num_queries, config.hidden_dim)
        self.queries = nn.Parameter(nn.init.normal_(queries, std=INIT_STD if config.query_norm else 1.0))
        # Zeros: the layers start with equal shares.
        self.tap_weights = (
            nn.Parameter(torch.zeros(config.num_queries, context.num_concat_layers))
            if context.num_concat_layers > 1
            else None
        )
        self.qformer = QFormer(
            config,
            source_dim=context.in_dim // context.num_concat_layers,
            num_queries=config.num_queries,
            cross_attention_frequency=config.cross_attention_frequency,
            input_norm=config.query_norm,
        )
        self.norm = nn.LayerNorm(config.hidden_dim) if config.output_norm else None
        self.proj = nn.Linear(config.hidden_dim, context.out_dim)

    def _check_sizes(self, files: WeightsFiles) -> None:
        """Check that the options are the sizes of a Granite-Speech's projector.

        Raises:
            WeightsError: One is another, or it is another model.
        """
        theirs = Blip2QFormerConfig(**_projector(files).config)
        config, where = files.read_json("config.json"), f"{files.source}: config.json"
        try:
            window, downsample = int(config.get("window_size", 15)), int(config.get("downsample_rate", 5))
            num_queries = window // downsample
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise WeightsError(f"{where}: {error}") from error
        if (theirs.layer_norm_eps, theirs.hidden_act) != (NORM_EPS, "gelu"):
            raise WeightsError(
                f"{where}: projector_config: layer_norm_eps {theirs.layer_norm_eps} and hidden_act "
                f"{theirs.hidden_act!r}, and adapter 'qformer' takes only {NORM_EPS} and 'gelu'"
            )
        needed = {
            "num_queries": num_queries,
            "num_layers": theirs.num_hidden_layers,
            "hidden_dim": theirs.hidden_size,
            "num_heads": theirs.num_attention_heads,
            "ffn_dim": theirs.intermediate_size,
            "cross_attention_frequency": theirs.cross_attention_frequency,
        }
        wrong = [
            f"adapter.{name} is {getattr(self.config, name)}, needs {value}"
            for name, value in needed.items()
            if getattr(self.config, name) != value
        ]
        if self.window != window:
            seconds = window / self.context.frame_rate
            wrong.append(
                f"adapter.window_seconds is {self.config.window_seconds}, needs {seconds:g} ({window} frames)"
            )
        if wrong:
            raise WeightsError(f"{files.source}: its projector has other sizes: {'; '.join(wrong)}")

    def load_weights(self) -> None:
        """Fill everything from the projector of a Granite-Speech.

        Raises:
            WeightsError: There is none, or its tensors do not fit.
        """
        files = find_weights(self.config.weights)
        if files is None:
            return
        load_state(self, granite_names(_projector(files).state_dict()), source=files.source)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with random weights, and with at most 2 layers x 32 and 4 queries."""
        chosen: QFormerAdapter.Config = cls.Config() if config is None else config
        return replace(
            chosen,
            weights="random",
            num_queries=min(chosen.num_queries, 4),
            num_layers=min(chosen.num_layers, 2),
            hidden_dim=32,
            num_heads=4,
            ffn_dim=64,
        )

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the layer's class."""
        return {QFormerLayer}

    def max_tokens(self, num_frames: int) -> int:
        """Return `num_queries` for each window, or for the clip, which is exact."""
        return self.config.num_queries * self._num_windows(num_frames)

    def _num_windows(self, num_frames: int) -> int:
        if self.window is None:
            return 1
        if self.config.remainder == "drop":
            return max(1, num_frames // self.window)
        return -(-num_frames // self.window)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, windows x queries, D)."""
        lengths = features.lengths.tolist()
        num_windows = [self._num_windows(length) for length in lengths]
        size = self.window or features.values.shape[1]
        windows = FrameGroups.split(features, size, max(num_windows))
        counts = torch.tensor(num_windows)
        wanted = torch.arange(max(num_windows)) < counts[:, None]
        wanted = wanted.to(windows.real.device)
        # Windows past a clip's end have no frames to attend to: only the others are run. (N, window, E)
        real = windows.real[wanted]
        if self.config.remainder == "pad":
            real = torch.ones_like(real)
        read = self._read(windows.frames[wanted], real)
        tokens = self.proj(read if self.norm is None else self.norm(read))
        padded = tokens.new_zeros(*wanted.shape, *tokens.shape[1:])
        padded[wanted] = tokens
        dropped = {}
        if self.config.remainder == "drop" and self.window is not None:
            kept = [min(n, count * self.window) for n, count in zip(lengths, num_windows, strict=True)]
            dropped = {"frames_dropped": sum(lengths) - sum(kept)}
        # (B, windows, Q, D) -> (B, windows x Q, D)
        out = Padded(padded.flatten(1, 2), counts.to(features.lengths.device) * self.config.num_queries)
        return AdapterOutput(out, counts=dropped)

    def _read(self, windows: Tensor, real: Tensor) -> Tensor:
        """Read (N, window, E) frames into (N, Q, H)."""
        num_layers = len(self.queries)
        # (N, window, layers x width) -> (N x layers, window, width)
        count, window, _ = windows.shape
        frames = windows.view(count, window, num_layers, -1).transpose(1, 2).flatten(0, 1)
        queries = self.queries.repeat(count, 1, 1)
        read: Tensor = self.qformer(queries, [(frames, real.repeat_interleave(num_layers, 0))])
        if self.tap_weights is None:
            return read
        shares = self.tap_weights.float().softmax(-1).T[..., None]  # (layers, Q, 1)
        return (read.view(count, num_layers, *read.shape[1:]) * shares.to(read.dtype)).sum(1)


def _projector(files: WeightsFiles) -> PublishedPart:
    part = published_part(files, "adapter")
    if part is None or part.config.get("model_type") != "blip_2_qformer":
        found = files.read_json("config.json").get("model_type")
        raise WeightsError(f"{files.source}: is a {found!r} model; adapter 'qformer' takes 'granite_speech'")
    return part


def granite_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Granite-Speech's projector by the names that `QFormerAdapter` gives them.

    Args:
        state: Tensors named as in transformers' `GraniteSpeechEncoderProjector`: `query`, `qformer.*`,
            `linear.*`. Others keep their names.
    """
    ours = {"query": "queries", "linear": "proj"}
    named = {}
    for name, value in state.items():
        first, dot, rest = name.partition(".")
        named[f"{ours.get(first, first)}{dot}{rest}"] = value
    return named
