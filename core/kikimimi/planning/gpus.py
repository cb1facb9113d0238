"""What some GPUs can do, by their makers' data sheets."""

from dataclasses import dataclass

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RequestError


@dataclass(frozen=True)
class GPU:
    """One GPU.

    Attributes:
        half: Peak of dense matrix products in bf16 and fp16 [FLOP/s].
        full: Peak in fp32, without tensor cores [FLOP/s].
        memory: Size [bytes].
    """

    half: float
    full: float
    memory: float

    def peak(self, precision: str) -> float:
        """Return the peak rate in a trainer's precision [FLOP/s]."""
        return self.full if precision == "fp32" else self.half


GPUS = {
    "a100": GPU(312e12, 19.5e12, 80e9),
    "b200": GPU(2250e12, 75e12, 180e9),
    "h100": GPU(989.4e12, 66.9e12, 80e9),
    "h200": GPU(989.4e12, 66.9e12, 141e9),
    "l4": GPU(121e12, 30.3e12, 24e9),
    "l40s": GPU(362e12, 91.6e12, 48e9),
    "rtx3090": GPU(71e12, 35.6e12, 24e9),
    "rtx4090": GPU(165.2e12, 82.6e12, 24e9),
}
"""GPUs by the name of `--gpu`. Source: NVIDIA's data sheets, without sparsity; A100 to H200 as SXM."""


def find_gpu(name: str) -> GPU:
    """Return a GPU.

    Raises:
        RequestError: There is none of that name.
    """
    if name.lower() not in GPUS:
        raise RequestError(
            f"--gpu: '{name}' is not in the table.{nearest(name.lower(), GPUS)} GPUs: {listing(GPUS)}. "
            "Another one's days are those of one here, times the ratio of their peak rates"
        )
    return GPUS[name.lower()]
