"""The guards that what a stage leaves has to pass for later stages to begin."""

from kikimimi.console.terminal import say
from kikimimi.errors import GateError
from kikimimi.guards.guard import guard_stage, held_verdict
from kikimimi.guards.verdict import GuardRow, Verdict, shown_value
from kikimimi.inference.ranks import are_several
from kikimimi.run.folder import RunFolder
from kikimimi.run.rank import global_rank
from kikimimi.training.stage_scores import compute_together, way_on


def pass_guards(run: RunFolder, name: str) -> None:
    """Measure the guards that a finished stage names; what was measured before is not measured again.

    The first rank does it, and the others compute along, as they score stages.

    Raises:
        GateError: A guard has failed, or says nothing of this stage.
    """
    stage = run.recipe.stages[name]
    if not stage.guards:
        return
    if not are_several(run.recipe.trainer):
        guard_stage(run, name)
    elif held_verdict(run, name) is None:
        compute_together(run, lambda ranks: guard_stage(run, name, ranks))
    verdict = held_verdict(run, name)
    assert verdict is not None
    for guard in stage.guards:
        rows = [row for row in verdict["rows"] if row["guard"] == guard]
        for row in rows:
            if row["passed"] is False:
                raise GateError(f"stage {name}: guard {guard}: {_said(row)}{way_on(run)}")
        if not any(row["passed"] for row in rows):  # what says nothing opens no gate
            raise GateError(f"stage {name}: guard {guard} says nothing: {rows[0]['why']}{way_on(run)}")
    if global_rank() == 0:
        say(f"stage {name}: guards passed: {', '.join(stage.guards)} ({_count(verdict)})", error=True)


def _said(row: GuardRow) -> str:
    value = shown_value(row["after"], row["unit"])
    before = "" if row["before"] is None else f" ({shown_value(row['before'], row['unit'])} before)"
    return f"{row['what']}: {value}{before}, with a {row['bound']}: {row['why']}".replace(
        "with a at", "with at"
    )


def _count(verdict: Verdict) -> str:
    failed = [row for row in verdict["rows"] if row["passed"] is False]
    return f"{len(failed)} of others failed" if failed else "no other failed"
