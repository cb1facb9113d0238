"""What baselines have said in the runs beside one: the same as they would say here."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kikimimi.errors import KikimimiError
from kikimimi.evaluation.asked import AskedEvaluation
from kikimimi.evaluation.predictions import Identity, Predictions, held_identity
from kikimimi.run.folder import RunFolder


def answered_elsewhere(
    run: RunFolder, asked: AskedEvaluation, system: str, identity: Identity
) -> Predictions | None:
    """Return what a system said of all rows of an evaluation in a run beside this one.

    Args:
        run: The run, in whose folder's folder the others are looked for.
        asked: The evaluation.
        system: The system, which does not depend on the run.
        identity: What its predictions depend on.

    Returns:
        The predictions, for reading; None where no run has them all.
    """
    own = Path(os.path.abspath(run.path))
    within = os.path.relpath(asked.folder, run.path)
    for name in sorted(_names(own.parent) - {own.name}):
        path = own.parent / name / within / f"{system}.jsonl"
        # What is wrong there is that run's to tell.
        with suppress(KikimimiError, OSError):
            if path.is_file() and held_identity(path) == identity:
                found = Predictions(path, identity, asked.keys, begin=False)
                if not asked.missing(found):
                    return found
    return None


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
