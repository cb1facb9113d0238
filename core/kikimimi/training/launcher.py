"""Whether the launcher started the processes that a recipe asks for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kikimimi.console.words import counted
from kikimimi.errors import RequestError
from kikimimi.run.rank import slurm_starts_ranks

if TYPE_CHECKING:
    from kikimimi.recipe import Trainer


def check_launcher(trainer: Trainer) -> None:
    """Check that the launcher started the ranks that a recipe asks for.

    Raises:
        RequestError: It started others.
    """
    environment = os.environ
    asked = f"trainer.devices={trainer.devices}, trainer.nodes={trainer.nodes}"
    total = trainer.devices * trainer.nodes
    if "RANK" in environment:
        started = int(environment.get("WORLD_SIZE", "1"))
        per_node = int(environment.get("LOCAL_WORLD_SIZE", trainer.devices))
        if (started, per_node) != (total, trainer.devices):
            raise RequestError(
                f"{asked}: but torchrun started {_processes(started, per_node)}. {_agree(started, per_node)}"
            )
    elif slurm_starts_ranks():
        started = int(environment["SLURM_NTASKS"])
        per_node = started // int(environment.get("SLURM_NNODES", "1")) or 1
        if (started, per_node) != (total, trainer.devices):
            raise RequestError(
                f"{asked}: but the Slurm job has {_processes(started, per_node)} (its tasks). "
                f"{_agree(started, per_node)}"
            )
        if started > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
            raise RequestError(
                f"the Slurm job has --ntasks={started}: write --ntasks-per-node={per_node} in its place, so "
                "that every node has as many ranks"
            )
        if started > 1 and "SLURM_STEP_ID" not in environment:
            raise RequestError(
                f"the Slurm job has {started} tasks, and this process was not started by srun: it would wait "
                "for the others for ever. Write srun before the command"
            )
    elif trainer.nodes > 1:
        raise RequestError(
            f"{asked}: no launcher started the ranks of {trainer.nodes} nodes (RANK and SLURM_NTASKS are not "
            "set). Start it with torchrun or srun: see docs/launching.md"
        )


def _processes(started: int, per_node: int) -> str:
    processes = counted(started, "process", "processes")
    return processes if per_node == started else f"{processes}, {per_node} per node"


def _agree(started: int, per_node: int) -> str:
    return (
        f"Add trainer.devices={per_node} trainer.nodes={started // per_node or 1} to the command, or start "
        "as many processes as the recipe asks for"
    )
