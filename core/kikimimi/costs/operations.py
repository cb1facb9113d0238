"""What each part of a model costs, as polynomials of the lengths that it is given.

Attention is quadratic in lengths, everything else at most linear.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kikimimi.contracts.component import LLM, Adapter, Padded
from kikimimi.contracts.precision import DTYPES
from kikimimi.costs.meta_pass import measure_pass
from kikimimi.model.speech_lm import SpeechLM

Powers = Sequence[tuple[int, int]]

ONE_LENGTH: Powers = ((0, 0), (1, 0), (2, 0))
"""Terms in the length x alone."""
LENGTH_AND_COUNT: Powers = (*ONE_LENGTH, (0, 1))
"""Terms in the length x, and linear ones in a count y."""
TWO_LENGTHS: Powers = (*LENGTH_AND_COUNT, (0, 2), (1, 1))
"""All terms in the lengths x and y."""


@dataclass(frozen=True)
class Polynomial:
    """A polynomial in two lengths x and y.

    Attributes:
        powers: Exponents of x and y in each term.
        coefficients: The factor of each term.
    """

    powers: Powers
    coefficients: tuple[float, ...]

    @classmethod
    def through(
        cls, powers: Powers, points: Sequence[tuple[int, int]], values: Sequence[float]
    ) -> Polynomial:
        """Return the polynomial that has the values at the points; there are as many as terms."""
        # Scaled, so that the squares of lengths do not drown the constant.
        scale = np.array([max(x for x, _ in points), max(1, *(y for _, y in points))], dtype=np.float64)
        terms = [[(x / scale[0]) ** i * (y / scale[1]) ** j for i, j in powers] for x, y in points]
        solved = np.linalg.solve(np.array(terms), np.array(values, dtype=np.float64))
        factors = [scale[0] ** i * scale[1] ** j for i, j in powers]
        return cls(tuple(powers), tuple((solved / factors).tolist()))

    def __call__(self, x: float, y: float = 0) -> float:
        """Return the value at x and y."""
        return sum(c * x**i * y**j for c, (i, j) in zip(self.coefficients, self.powers, strict=True))


_SECONDS = (2.0, 6.0, 14.0)
"""Clips that encoder and adapter are measured with [s]."""
_MANY = 10**6


@dataclass(frozen=True)
class Cost:
    """The cost of one clip or one sequence, in a part of the model.

    Attributes:
        forward: Operations of the forward pass.
        backward: Operations of the backward pass, for what the stage trains and what lies before it.
        saved: Activations kept for the backward pass [bytes].
        copies: Weights kept in half precision, however many clips or sequences there are [bytes].
        trains: Whether any parameter of the part is trained.
        problem: Why it is an estimate from the matrices alone, or None.
    """

    forward: Polynomial
    backward: Polynomial
    saved: Polynomial
    copies: int
    trains: bool
    problem: str | None = None

    def flops(self, x: float, y: float = 0) -> float:
        """Return the operations of both passes."""
        return self.forward(x, y) + self.backward(x, y)


@dataclass(frozen=True)
class Costs:
    """The costs of all parts.

    Attributes:
        encoder: Cost of the encoder by the clip's frames F.
        adapter: Cost of the adapter by the clip's frames F.
        llm: Cost of a causal LLM by the sequence's positions N and how many of them are selected; of another
            by the positions up to the first selected one, and those from there to the last.
    """

    encoder: Cost
    adapter: Cost
    llm: Cost


def measure_costs(model: SpeechLM, precision: str) -> Costs:
    """Measure every part of a model; what requires gradients in it counts."""
    half = None if precision == "fp32" else DTYPES[precision]
    if model.gate is not None:
        model.gate.set(True)
    encoder, adapter, llm = model.encoder, model.adapter, model.llm
    limit = encoder.max_seconds or max(_SECONDS)
    scale = min(1.0, limit / max(_SECONDS))
    samples = [round(seconds * scale * encoder.sample_rate) for seconds in _SECONDS]
    frames = [(encoder.num_frames(number), 0) for number in samples]
    heard = any(p.requires_grad for p in encoder.parameters())
    adapted = heard or any(p.requires_grad for p in adapter.parameters())

    def clip(number: int) -> tuple[Any, ...]:
        return (Padded(torch.empty(1, samples[number], device="meta"), torch.tensor([samples[number]])),)

    grouped = [(_whole_groups(adapter, length), 0) for length, _ in frames]

    def features(number: int) -> tuple[Any, ...]:
        length = grouped[number][0]
        values = _empty(1, length, encoder.dim, like=adapter, grad=heard)
        # Losses that need what is said are counted: one character is always short enough.
        said = (["a"],) if adapter.uses_transcripts else ()
        return (Padded(values, torch.tensor([length])), *said)

    points, packs = _sequences(llm)
    return Costs(
        _measure(encoder, ONE_LENGTH, frames, clip, half),
        _measure(adapter, ONE_LENGTH, grouped, features, half),
        _measure(
            llm,
            LENGTH_AND_COUNT if llm.causal else TWO_LENGTHS,
            points,
            lambda number: (_empty(packs[number][0], llm.dim, like=llm, grad=adapted), *packs[number][1:]),
            half,
        ),
    )


def _whole_groups(adapter: Adapter, frames: int) -> int:
    """Return a number of frames, a little above a given one, at which an adapter's last group is full.

    Through such points the polynomial is straight where an adapter rounds.
    """
    per_frame = adapter.max_tokens(_MANY) / _MANY
    return min(range(frames, frames + 64), key=lambda n: abs(adapter.max_tokens(n) - n * per_frame))


def _sequences(llm: LLM) -> tuple[list[tuple[int, int]], list[tuple[int, Tensor, Tensor]]]:
    """Return (x, y) as `Costs.llm` has them, and for each positions, lengths and the selected positions."""
    if llm.causal:
        points = [(96, 8), (32, 8), (64, 8), (96, 40)]
        totals = [x for x, _ in points]
    else:
        points = [(32, 8), (64, 8), (96, 8), (32, 24), (32, 40), (96, 40)]
        totals = [x + y - 1 for x, y in points]
    return points, [
        (total, torch.tensor([total]), torch.arange(total - y, total))
        for total, (_, y) in zip(totals, points, strict=True)
    ]


def _empty(*shape: int, like: nn.Module, grad: bool) -> Tensor:
    weight = next((p for p in like.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if weight is None else weight.dtype
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=grad)


def _measure(
    part: nn.Module,
    powers: Powers,
    points: Sequence[tuple[int, int]],
    arguments: Callable[[int], tuple[Any, ...]],
    half: torch.dtype | None,
) -> Cost:
    key = (_signature(part), tuple(points), half, _leading(arguments(0)).requires_grad)
    if key in _measured:
        return _measured[key]
    trains = any(p.requires_grad for p in part.parameters())
    try:
        passes = [measure_pass(part, *arguments(number), half=half) for number in range(len(points))]
    except Exception as error:  # noqa: BLE001 - anybody's component, which need not run there
        reason = str(error).partition("\n")[0] or type(error).__name__
        cost = _by_matrices(part, trains, arguments(0), f"{type(error).__name__}: {reason}")
    else:
        # An encoder that keeps the silence of its window gives every clip the same length.
        places = sorted({point: place for place, point in enumerate(points)}.values())
        terms = powers if len(places) == len(points) else powers[: len(places)]
        lengths = [points[place] for place in places]
        forward, backward, saved = (
            Polynomial.through(terms, lengths, [getattr(passes[place], field) for place in places])
            for field in ("forward", "backward", "saved")
        )
        cost = Cost(forward, backward, saved, copies=passes[0].copies, trains=trains)
    _measured[key] = cost
    return cost


_measured: dict[Hashable, Cost] = {}
"""Costs by everything that they depend on: stages, and variants of a recipe, share most of their parts."""


def _signature(part: nn.Module) -> Hashable:
    parameters = ((name, p.shape, p.dtype, p.requires_grad) for name, p in part.named_parameters())
    config = getattr(part, "config", None)
    return type(part), repr(config), part.training, *parameters


def _leading(arguments: tuple[Any, ...]) -> Tensor:
    values: Tensor = arguments[0].values if isinstance(arguments[0], Padded) else arguments[0]
    return values


def _by_matrices(part: nn.Module, trains: bool, arguments: tuple[Any, ...], problem: str) -> Cost:
    """Count two operations for each number of a matrix and each position, and as many for each gradient."""
    tables = {id(m.weight) for m in part.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in part.parameters() if p.dim() > 1 and id(p) not in tables]
    size = sum(p.numel() for p in matrices)
    trained = sum(p.numel() for p in matrices if p.requires_grad)
    through = size if trains or _leading(arguments).requires_grad else 0

    forward, backward, saved = (Polynomial(((1, 0),), (2.0 * n,)) for n in (size, through + trained, 0))
    return Cost(forward, backward, saved, copies=0, trains=trains, problem=problem)
