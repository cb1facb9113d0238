"""Which changes of a recipe would make a stage fit a GPU: each is tried, by planning the changed recipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from kikimimi.errors import RequestError
from kikimimi.planning.plan import Planner
from kikimimi.recipe import Recipe
from kikimimi.recipe.chosen import PARTS

MEMORY = (24, 80, 141)
"""Sizes of GPUs that are looked at [GB of 10^9 bytes]."""
RANKS = 8
"""Devices that FSDP is tried with where the recipe has only one."""
OFFERED = 3
"""How many ways are shown."""

Resolve = Callable[[Sequence[str]], Recipe]
"""Returns the recipe with further changes, written as on the command line."""


@dataclass(frozen=True)
class Way:
    """Changes that were planned together.

    Attributes:
        changes: The changes as they are written on the command line.
        total: Memory of one rank then [bytes].
    """

    changes: tuple[str, ...]
    total: float

    def to_json(self) -> dict[str, Any]:
        """Return both as a JSON object."""
        return {"changes": list(self.changes), "total": round(self.total)}


@dataclass
class Adviser:
    """Looks for the fewest changes that make a stage fit.

    Attributes:
        resolve: Returns the changed recipe.
        planner: Plans it.
        name: The stage's name.
    """

    resolve: Resolve
    planner: Planner
    name: str
    _tried: dict[tuple[str, ...], float | None] = field(default_factory=dict)

    def ways(self, size: float) -> list[Way]:
        """Return up to `OFFERED` ways to fit, those with the fewest changes first; none holds another."""
        recipe = self.resolve(())
        moves, smaller = self._moves(recipe), _smaller_batches(recipe, self.name)
        found: list[tuple[set[tuple[str, ...]], Way]] = []
        for number in range(1, len(moves) + 2):
            # A smaller batch is one of the moves, the largest first.
            plain = [list(chosen) for chosen in combinations(moves, number)]
            with_batch = [[*chosen, batch] for chosen in combinations(moves, number - 1) for batch in smaller]
            for chosen in plain + with_batch:
                used = {move if move not in smaller else ("batch",) for move in chosen}
                if any(others <= used for others, _ in found):
                    continue
                changes = tuple(change for move in chosen for change in move)
                total = self._total(changes)
                if total is not None and total <= size:
                    found.append((used, Way(changes, total)))
                    if len(found) == OFFERED:
                        return [way for _, way in found]
        return [way for _, way in found]

    def _moves(self, recipe: Recipe) -> list[tuple[str, ...]]:
        stage, key = recipe.stages[self.name], f"stages.{self.name}"
        at = recipe.at(self.name)
        moves: list[tuple[str, ...]] = []
        frozen = [
            part
            for part in PARTS
            if part != "adapter" and getattr(at, part).dtype == "fp32"
            if part not in stage.train or stage.train[part].part == "lora"
        ]
        if frozen and recipe.trainer.precision != "fp32":
            moves.append(tuple(f"{key}.dtype.{part}=bf16" for part in frozen))
        if recipe.trainer.strategy != "fsdp":
            single = recipe.trainer.devices * recipe.trainer.nodes == 1
            moves.append(("trainer.strategy=fsdp", *([f"trainer.devices={RANKS}"] if single else [])))
        if not recipe.trainer.activation_checkpointing:
            moves.append(("trainer.activation_checkpointing=true",))
        if "llm" in stage.train and stage.train["llm"].part != "lora":
            updates = ("llm.lora={rank: 16, alpha: 32}",) if recipe.llm.lora is None else ()
            half = (f"{key}.dtype.llm=bf16",) if recipe.trainer.precision != "fp32" else ()
            moves.append((*updates, f"{key}.train.llm.part=lora", *half))
        return [move for move in moves if self._total(move) is not None]

    def _total(self, changes: tuple[str, ...]) -> float | None:
        """Return the memory of the changed recipe, or None where there can be no such recipe."""
        if changes not in self._tried:
            try:
                self._tried[changes] = self.planner.plan(self.resolve(changes), self.name).memory.total
            except RequestError:
                self._tried[changes] = None
        return self._tried[changes]


def _smaller_batches(recipe: Recipe, name: str) -> list[tuple[str, ...]]:
    """Return micro-batches of a half, a quarter, ... of the size, and as many more of them in a step."""
    batch, key = recipe.stages[name].batch, f"stages.{name}.batch"
    option, least = ("seconds", 1) if batch.tokens is None else ("tokens", 64)
    return [
        (f"{key}.{option}={size:g}", f"{key}.global={batch.global_ * times}")
        for times in (2, 4, 8, 16)
        if (size := batch.budget / times) >= least and (option == "seconds" or size == int(size))
    ]
