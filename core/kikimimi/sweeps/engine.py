"""What trains the runs of a sweep: processes of this machine, or a cluster's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LAUNCHERS = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "TORCHELASTIC_", "RAY_")
_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that is to be trained and evaluated.

    Attributes:
        name: Name of the run.
        run: Its folder, which holds its recipe.
        log: Where what it prints goes.
        devices: Processes that it trains with (`trainer.devices`).
        nodes: Machines (`trainer.nodes`).
        gpu: Whether it trains on GPUs where there are some.
    """

    name: str
    run: Path
    log: Path
    devices: int = 1
    nodes: int = 1
    gpu: bool = True


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended.

    Attributes:
        name: Name of the run.
        code: Exit code of its process, as a shell gives it: 128 and the number of the signal that killed it.
        seconds: How long it took [s].
        cause: What the engine knows of why it failed, such as a machine that was lost; empty where the log
            tells.
    """

    name: str
    code: int
    seconds: float
    cause: str = ""


class RunEngine(Protocol):
    """Trains runs, several at a time."""

    slots: int
    """How many run at a time."""

    def start(self, job: Job) -> None:
        """Start a job; there is a free slot."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """Wait until a job has ended, or so long [s]; return those that have."""
        ...

    def stop(self, name: str) -> None:
        """Have a job stop and keep what it has done; it ends as any other."""
        ...

    def close(self) -> None:
        """Stop all that runs, and give back what is held."""
        ...


def environment(threads: int) -> Mapping[str, str]:
    """Return what the processes of a job need of an environment beside what this one has.

    Args:
        threads: CPU threads that each of them uses.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what launchers set: a cluster that was started by srun has its ranks.

    Of the cluster's own variables, which hold its token, the training needs none.
    """
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith(_LAUNCHERS) and name not in _RANKS
    }
