"""Which of the processes of a distributed run this is, before any process group exists."""

import os

from kikimimi.console.terminal import say

_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of torchrun, of Lightning's own launcher, of srun
_LOCAL_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID")


def global_rank() -> int:
    """Return the rank that the launcher gave this process; 0 where there is no launcher."""
    return _first(_VARIABLES)


def local_rank() -> int:
    """Return which process of its node this is, and so which GPU is its own; 0 where there is no launcher."""
    return _first(_LOCAL_VARIABLES)


def child_of_lightning() -> bool:
    """Whether Lightning started this process beside the one that the user started."""
    return "RANK" not in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def slurm_starts_ranks() -> bool:
    """Whether Slurm's tasks are the ranks, as Lightning sees it."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "RANK" not in os.environ and "SLURM_NTASKS" in os.environ and not interactive


def say_once(message: str) -> None:
    """Print a message of all processes once: to the standard error of the first."""
    if global_rank() == 0:
        say(message, error=True)


def _first(variables: tuple[str, ...]) -> int:
    return next((int(os.environ[name]) for name in variables if name in os.environ), 0)
