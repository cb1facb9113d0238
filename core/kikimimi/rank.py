"""Which of the processes of a distributed run this is, before any process group exists."""

from __future__ import annotations

import os

_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of torchrun, of Lightning's own launcher, of srun


def global_rank() -> int:
    """Return the rank that the launcher gave this process; 0 where there is no launcher."""
    return next((int(os.environ[name]) for name in _VARIABLES if name in os.environ), 0)
