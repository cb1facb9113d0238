"""What the other ranks say when one of them dies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kikimimi.errors import KikimimiError
from kikimimi.run.rank import global_rank

_SIGNS = (
    "Connection closed by peer",  # gloo
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",  # NCCL
    "Timed out waiting",
)


class LostRankError(KikimimiError):
    """Another rank ended; what it said is the reason."""


@contextmanager
def lost_ranks_told() -> Iterator[None]:
    """Turn what a process group raises when another rank is gone into one line.

    Raises:
        LostRankError: Another rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not together or not _is_lost(error):
            raise
        said = str(error).strip().partition("\n")[0]
        raise LostRankError(
            f"rank {global_rank()}: another rank ended ({said[:120]}). What "
            "that one said is the reason. Then the same command goes on from the last checkpoint"
        ) from error


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistNetworkError) or any(sign in str(error) for sign in _SIGNS)
