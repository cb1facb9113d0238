"""The report of a sweep, and what differs between two, from run folders whose predictions are made up."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kikimimi.cli import main
from kikimimi.errors import RequestError
from kikimimi.evaluation.clip_details import clip_groups
from kikimimi.evaluation.record import keep_scoring
from kikimimi.evaluation.score import score
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.factor import SEED_OPTION, Factor, Level
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.run_result import RunScore
from kikimimi.sweeps.summarise import read_results, summarise
from kikimimi.sweeps.sweep_difference import find_sweep_difference
from kikimimi.sweeps.sweep_folder import RunLine, SweepFolder
from kikimimi.sweeps.sweep_report import write_sweep_report

CLIPS = 40
Answers = Callable[[int], str]


def wrong_in(*wrong: int) -> Answers:
    """Answer clips with ten right letters, those whose number ends so with five wrong ones."""
    return lambda clip: "aaaaa" + ("bbbbb" if clip % 10 in wrong else "aaaaa")


def write_run(folder: SweepFolder, run: Path, recipe_file: Path, changes: list[str], answer: Answers) -> None:
    """Write the folder of a run as an evaluation leaves it."""
    made = RunFolder.create(run, load_recipe(recipe_file, changes))
    place = made.evaluation("held_out")
    place.mkdir(parents=True)
    said = [answer(clip) for clip in range(CLIPS)]
    lines = [
        {"key": f"clip {clip}", "reference": "a" * 10, "prediction": text, "seconds": 0.1}
        for clip, text in enumerate(said)
    ]
    text = "".join(json.dumps(line) + "\n" for line in [{"identity": "made up"}, *lines])
    (place / f"{made.recipe.name}.jsonl").write_text(text, encoding="utf-8")
    found = score(
        ["a" * 10] * CLIPS, said, metric="cer", normaliser=made.recipe.evaluate["held_out"].normaliser
    )
    (place / "scores.json").write_text(json.dumps({made.recipe.name: {**found.to_json(), "seconds": 4.0}}))
    steps = [{"stage": "asr", "step": step, "validation_loss": 4.0 / step} for step in (1, 2)]
    made.metrics.write_text("".join(json.dumps(line) + "\n" for line in steps), encoding="utf-8")


MakeScored = Callable[..., SweepFolder]


@pytest.fixture
def make_scored(recipe_file: Path, tmp_path: Path) -> MakeScored:
    """Make a sweep over hidden_dim with two seeds, from what each setting answers with each."""

    def make(name: str, out: str = "runs", **answers: tuple[Answers, Answers]) -> SweepFolder:
        sizes = tuple(Level(size[1:], (f"adapter.hidden_dim={size[1:]}",)) for size in answers)
        seeds = tuple(Level(seed, (f"seed={seed}",)) for seed in "01")
        factors = (Factor("adapter.hidden_dim", sizes), Factor(SEED_OPTION, seeds))
        sweep = Sweep(name=name, recipe=recipe_file, factors=factors)
        folder = SweepFolder.create(tmp_path / out, sweep)
        lines = []
        for size, both in answers.items():
            for seed, answer in enumerate(both):
                changes = [f"adapter.hidden_dim={size[1:]}", f"seed={seed}"]
                run = f"{size}-{seed}"
                write_run(folder, folder.out / run, recipe_file, changes, answer)
                levels = {"adapter.hidden_dim": size[1:], SEED_OPTION: str(seed)}
                lines.append(RunLine(name=run, digest="", levels=levels, changes=changes))
        folder.write_runs(lines)
        for trained in folder.runs:
            folder.add_event(trained, "finished", seconds=30.0)
        return folder

    return make


def rows_of(folder: SweepFolder) -> dict[str, dict[str, str]]:
    with (folder.path / "results.csv").open(encoding="utf-8") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_a_setting_that_is_worse_on_most_clips_is_told_from_the_best(make_scored: MakeScored) -> None:
    good, bad = (wrong_in(0), wrong_in(1)), (wrong_in(0, 1, 2, 3, 4, 5), wrong_in(1, 2, 3, 4, 5, 6))
    folder = make_scored("told", s16=bad, s32=good)
    page = write_sweep_report(folder).read_text(encoding="utf-8")
    # 1 of 10 clips with half of its letters wrong: 5 %; 6 of 10: 30 %
    assert [float(row["held_out CER"]) for row in rows_of(folder).values()] == pytest.approx([30, 30, 5, 5])
    assert rows_of(folder)["s32-0"]["validation_loss"] == "2.0"
    lines = (folder.path / "results.md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("| 32 | **5.00** (")
    assert lines[3].startswith("| 16 | 30.00 (")
    assert "1 of 1 other" in page


def test_settings_that_answer_alike_are_not_told_apart(make_scored: MakeScored) -> None:
    folder = make_scored("alike", s16=(wrong_in(0), wrong_in(1)), s32=(wrong_in(0), wrong_in(2)))
    page = write_sweep_report(folder).read_text(encoding="utf-8")
    assert "0 of 1 other" in page
    assert "**" not in (folder.path / "results.md").read_text(encoding="utf-8")
    assert r"\textbf" not in (folder.path / "results.tex").read_text(encoding="utf-8")


def scored_on(monkeypatch: pytest.MonkeyPatch, clips: dict[str, str]) -> None:
    """Let each run, by its name, have been scored on clips of a digest."""

    def scorings(place: Path) -> list[dict[str, str]]:
        return [{"data": clips[place.parents[1].name]}]

    monkeypatch.setattr("kikimimi.sweeps.run_result.read_scorings", scorings)


def test_settings_are_compared_on_the_same_clips_alone(
    make_scored: MakeScored, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (wrong_in(0), wrong_in(1)), (wrong_in(0, 1, 2, 3, 4, 5), wrong_in(1, 2, 3, 4, 5, 6))
    folder = make_scored("others", s16=bad, s32=good)
    heard = {"s16-0": "a", "s16-1": "a", "s32-0": "b", "s32-1": "b"}
    scored_on(monkeypatch, heard)
    write_sweep_report(folder)
    table = (folder.path / "results.md").read_text(encoding="utf-8")
    assert "scored on other clips" in table
    assert "**" not in table


def test_whatever_runs_have_come_to_is_said(make_scored: MakeScored) -> None:
    one = (wrong_in(0), wrong_in(1))
    folder = make_scored("half", s16=one, s32=one, s64=one)
    runs = {run.name: run for run in folder.runs}
    (runs["s16-0"].path / "metrics.jsonl").write_text('{"stage": 1}\n{}\n', encoding="utf-8")
    (runs["s16-1"].path / "evaluations/held_out/scores.json").write_text("{", encoding="utf-8")
    folder.add_event(runs["s32-0"], "failed", cause="CUDA <out> of memory", code=1)
    folder.add_event(runs["s32-1"], "running")
    for path in sorted(runs["s64-1"].path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    page = write_sweep_report(folder).read_text(encoding="utf-8")
    rows = rows_of(folder)
    assert rows["s64-0"]["held_out CER"] == "5.0"
    assert [rows[name]["held_out CER"] for name in ("s16-1", "s32-0", "s32-1", "s64-1")] == [""] * 4
    assert "s16-0: " in page.partition('id="unread"')[2]
    assert "s16-1: " in page.partition('id="unread"')[2]
    assert "CUDA &lt;out&gt; of memory" in page
    assert "1 run is being trained" in page


def test_what_is_not_finite_is_no_speed(make_scored: MakeScored) -> None:
    folder = make_scored("diverged", s16=(wrong_in(0), wrong_in(1)))
    nan = float("nan")
    lines = [
        {
            "stage": "asr",
            "step": 1,
            "validation_loss": nan,
            "audio_seconds_per_second": nan,
            "memory_gb": nan,
        },
        {
            "stage": "asr",
            "step": 2,
            "validation_loss": 2.0,
            "audio_seconds_per_second": 3.0,
            "memory_gb": 0.5,
        },
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.runs[0].path / "metrics.jsonl").write_text(text, encoding="utf-8")
    write_sweep_report(folder)
    row = rows_of(folder)["s16-0"]
    assert (row["audio_seconds_per_second"], row["memory_bytes"]) == ("3.0", "500000000")


def test_a_run_that_fails_early_cuts_no_curve(make_scored: MakeScored) -> None:
    folder = make_scored("early", s16=(wrong_in(0), wrong_in(1)))
    line = json.dumps({"stage": "asr", "step": 1, "validation_loss": 9.0})
    (folder.runs[1].path / "metrics.jsonl").write_text(line + "\n", encoding="utf-8")
    folder.add_event(folder.runs[1], "failed", cause="killed", code=137)
    (setting,) = summarise(folder, read_results(folder)).settings
    assert setting.curves == {"0": [(1, 4.0), (2, 2.0)]}
    folder.add_event(folder.runs[0], "running")
    (setting,) = summarise(folder, read_results(folder)).settings
    assert [*setting.curves] == ["0", "1"]


def test_time_is_that_of_all_sweeps_that_trained_a_run(make_scored: MakeScored) -> None:
    one = (wrong_in(0), wrong_in(1))
    folder = make_scored("first", s16=one)
    other = SweepFolder.create(folder.out, replace(folder.sweep, name="second"))
    other.write_runs(
        RunLine(
            name=run.name, digest="", levels={**run.levels, SEED_OPTION: run.seed}, changes=[*run.changes]
        )
        for run in folder.runs
    )
    other.add_event(other.runs[0], "finished")
    other.add_event(other.runs[1], "failed", cause="killed", seconds=2.0)
    other.add_event(other.runs[1], "finished")
    write_sweep_report(other)
    assert {name: row["seconds"] for name, row in rows_of(other).items()} == {
        "s16-0": "30.0",
        "s16-1": "32.0",
    }
    (folder.path / "events.jsonl").write_text("{", encoding="utf-8")  # another sweep's damage is not ours
    write_sweep_report(other)
    assert {name: row["seconds"] for name, row in rows_of(other).items()} == {"s16-0": "", "s16-1": "2.0"}


def test_what_is_left_of_a_setting_with_a_pruned_seed_is_not_compared(make_scored: MakeScored) -> None:
    good, bad = (wrong_in(0), wrong_in(1)), (wrong_in(0, 1, 2, 3, 4, 5), wrong_in(1, 2, 3, 4, 5, 6))
    folder = make_scored("some", s16=bad, s32=(wrong_in(), wrong_in()), s64=good)
    runs = {run.name: run for run in folder.runs}
    folder.add_event(runs["s32-0"], "pruned", cause="validation loss 9")
    summary = summarise(folder, read_results(folder))
    (evaluation,) = summary.evaluations
    assert [(pair.one, pair.other) for pair in evaluation.pairs] == [("hidden_dim=64", "hidden_dim=16")]
    assert summary.settings[0].name == "hidden_dim=64"
    assert evaluation.notes == [
        "a seed was pruned, so that the mean of the others looks better than it is, and not compared: "
        "hidden_dim=32"
    ]
    for name in ("s16-0", "s64-0"):
        folder.add_event(runs[name], "pruned", cause="validation loss 9")
    summary = summarise(folder, read_results(folder))
    (evaluation,) = summary.evaluations
    assert (evaluation.pairs, evaluation.effects) == ([], {})
    assert evaluation.notes[0].endswith("not compared: all settings")
    assert {one.scores["held_out"].value for one in summary.settings} == {0.0, 5.0, 30.0}
    assert not any(one.scores["held_out"].best for one in summary.settings)


def test_sweeps_differ_in_factors_settings_and_scores(make_scored: MakeScored) -> None:
    good, bad = (wrong_in(0), wrong_in(1)), (wrong_in(0, 1, 2, 3, 4, 5), wrong_in(1, 2, 3, 4, 5, 6))
    one = make_scored("first", out="a", s16=bad, s32=good)
    other = make_scored("second", out="b", s16=good, s64=good)
    found = find_sweep_difference(one, other)
    assert {name: [item.item for item in items] for name, items in found.items.items()} == {
        "factors": ["adapter.hidden_dim"],
        "settings": ["hidden_dim=32", "hidden_dim=64"],
    }
    (pair,) = found.scores
    assert pair.setting == "hidden_dim=16"
    assert [pair.one, pair.other] == pytest.approx([30, 5])
    assert pair.pair is not None
    assert pair.pair.difference == pytest.approx(-25)
    assert pair.pair.settled
    assert pair.pair.low <= -25 <= pair.pair.high < 0
    back = find_sweep_difference(other, one).scores[0].pair
    assert back is not None
    assert back.difference == pytest.approx(25)
    assert back.low > 0


def test_runs_that_both_sweeps_have_are_not_compared(make_scored: MakeScored) -> None:
    one = make_scored("first", s16=(wrong_in(0), wrong_in(1)))
    found = find_sweep_difference(one, one)
    assert dict(found.items) == {}
    assert [(pair.pair, pair.notes) for pair in found.scores] == [(None, ["the same runs"])]


def test_sweeps_differ_as_their_runs_do_not_as_the_file_does_now(
    make_scored: MakeScored, recipe_file: Path
) -> None:
    one = make_scored("first", out="a", s16=(wrong_in(0), wrong_in(1)))
    other = make_scored("second", out="b", s16=(wrong_in(0), wrong_in(1)))
    for run, seed in zip(other.runs, "01", strict=True):
        changes = ["adapter.hidden_dim=16", f"seed={seed}", "stages.asr.steps=7"]
        (run.path / "recipe.yaml").write_text(to_yaml(load_recipe(recipe_file, changes)), encoding="utf-8")
    for run, torch in ((one.runs[0], "2.0"), (other.runs[0], "2.1")):
        held = {"recipe": {"yaml": "stages: {}"}, "libraries": {"torch": torch}}
        (run.path / "lock.json").write_text(json.dumps(held), encoding="utf-8")
    difference = find_sweep_difference(one, other)
    assert difference.notes == []
    found = {
        section: [(item.item, item.one, item.other) for item in items]
        for section, items in difference.items.items()
    }
    assert found == {"stages": [("stages.asr.steps", 2, 7)], "versions": [("torch", "2.0", "2.1")]}


def run_diff(monkeypatch: pytest.MonkeyPatch, *paths: Path | str) -> int:
    monkeypatch.setattr("sys.argv", ["kikimimi", "diff", *map(str, paths)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_the_command_prints_it(
    make_scored: MakeScored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_scored("first", out="a", s16=(wrong_in(0, 1, 2, 3, 4, 5), wrong_in(1, 2, 3, 4, 5, 6)))
    other = make_scored("second", out="b", s16=(wrong_in(0), wrong_in(1)))
    assert run_diff(monkeypatch, one.path, other.path) == 0
    said = capsys.readouterr().out
    assert "vary the same\n" in said
    assert "  hidden_dim=16, held_out: 30.00 -> 5.00 %; -25.00 (" in said
    assert said.rstrip().endswith(": differs")
    assert run_diff(monkeypatch, one.path, other.path, "--json") == 0
    (pair,) = json.loads(capsys.readouterr().out)["scores"]
    assert (pair["setting"], pair["pair"]["difference"]) == ("hidden_dim=16", pytest.approx(-25))
    assert run_diff(monkeypatch, one.path, one.runs[0].path) == 2
    assert "a sweep is compared with a sweep" in capsys.readouterr().err


def test_seeds_that_heard_other_clips_are_left_out(
    make_scored: MakeScored, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (wrong_in(0), wrong_in(1)), (wrong_in(0, 1, 2, 3, 4, 5), wrong_in(1, 2, 3, 4, 5, 6))
    folder = make_scored("between", s16=bad, s32=good)
    heard = {"s16-0": "a", "s16-1": "b", "s32-0": "b", "s32-1": "a"}
    scored_on(monkeypatch, heard)
    summary = summarise(folder, read_results(folder))
    (evaluation,) = summary.evaluations
    assert evaluation.notes[0].endswith("and not compared: hidden_dim=16 (seed 1); hidden_dim=32 (seed 0)")
    assert [[*one.scores["held_out"].seeds] for one in summary.settings] == [["1"], ["0"]]


def test_runs_that_were_scored_anew_are_compared_as_they_were_scored_last(make_scored: MakeScored) -> None:
    folder = make_scored("anew", s16=(wrong_in(0), wrong_in(1)), s32=(wrong_in(0, 1), wrong_in(1, 2)))
    for run in folder.runs:
        made = RunFolder.open(run.path)
        (place := made.evaluation("held_out")).joinpath("scores.json").unlink()
        lines = [json.loads(line) for line in (place / "small.jsonl").read_text().splitlines()[1:]]
        evaluation = replace(
            made.recipe.evaluate["held_out"],
            metric=load_recipe(folder.sweep.recipe, ["evaluate.held_out.metric=accuracy"])
            .evaluate["held_out"]
            .metric,
        )
        scored = score(
            [line["reference"] for line in lines],
            [line["prediction"] for line in lines],
            metric="accuracy",
            normaliser=evaluation.normaliser,
        )
        values = {**scored.to_json(), "seconds": 4.0}
        keep_scoring(place, evaluation, "data", {"small": {"predictions": {}, "score": values}})
        (place / "scores.json").write_text(json.dumps({"small": values}))
    summary = summarise(folder, read_results(folder))
    (found,) = summary.evaluations
    assert (found.label, found.better) == ("ACCURACY", "higher")
    best = summary.settings[0].scores["held_out"]
    # By characters, of which nine in ten are right, the interval would lie elsewhere.
    assert best.value == pytest.approx(90)
    assert best.low is not None
    assert best.high is not None
    assert best.low < 90 < best.high <= 100


def test_intervals_draw_whole_groups_where_those_of_runs_do(
    make_scored: MakeScored, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_scored("groups", s16=(wrong_in(0, 1), wrong_in(0, 1)), s32=(wrong_in(0), wrong_in(0)))
    results = read_results(folder)
    (pair,) = summarise(folder, results).evaluations[0].pairs
    assert pair.settled
    results = [
        replace(one, scores={name: by_speaker(of) for name, of in one.scores.items()}) for one in results
    ]
    (evaluation,) = summarise(folder, results).evaluations
    assert evaluation.notes == [
        "intervals and tests draw clips, as the data that tells groups by speaker is gone"
    ]
    speakers = {f"clip {clip}": str(clip % 10 == 1) for clip in range(CLIPS)}
    monkeypatch.setattr("kikimimi.sweeps.summarise.clip_groups", lambda run, name, field: ("", speakers))
    (evaluation,) = summarise(folder, results).evaluations
    assert evaluation.notes == ["intervals and tests draw whole groups by speaker, 2 of them"]
    assert not evaluation.pairs[0].settled  # only one of two speakers is heard better


def test_what_clips_belong_to_is_read_from_the_data(recipe_file: Path, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", load_recipe(recipe_file))
    digest, groups = clip_groups(run, "held_out", "length")
    assert len(digest) == 64
    assert groups == dict.fromkeys(("held-0000", "held-0001", "held-0002"), "0 to 2 s")
    with pytest.raises(RequestError, match="no record names 'nothing'"):
        clip_groups(run, "held_out", "nothing")


def by_speaker(one: RunScore) -> RunScore:
    return replace(one, score=replace(one.score, interval_by="speaker"))


def test_a_value_that_is_not_valid_is_not_compared(make_scored: MakeScored) -> None:
    folder = make_scored("judged", s16=(wrong_in(0), wrong_in(1)), s32=(wrong_in(), wrong_in()))
    for invalid, scored in (({"s32-0"}, ["hidden_dim=16"]), ({"s32-0", "s16-0"}, None)):
        for run in folder.runs:
            path = run.path / "evaluations/held_out/scores.json"
            values = json.loads(path.read_text())
            if run.name in invalid:
                values["small"]["invalid"] = "9 of 40 answers could not be judged"
            path.write_text(json.dumps(values))
        summary = summarise(folder, read_results(folder))
        (evaluation,) = summary.evaluations
        assert evaluation.pairs == []
        there = [one.name for one in summary.settings if one.scores]
        assert there == (scored or ["hidden_dim=32", "hidden_dim=16"])
        assert evaluation.notes[0].startswith("not valid, and not compared: ")


def test_settings_go_by_what_is_compared_first_whatever_run_lacks_it(make_scored: MakeScored) -> None:
    folder = make_scored("order", s16=(wrong_in(0), wrong_in(1)), s32=(wrong_in(), wrong_in()))
    folder.sweep = replace(folder.sweep, compare=("held_out", "other"))
    results = [
        replace(one, scores={"other": one.scores["held_out"], **(one.scores if number else {})})
        for number, one in enumerate(read_results(folder))
    ]
    assert [one.name for one in summarise(folder, results).evaluations] == ["held_out", "other"]


def test_a_factor_takes_no_other_columns_place(make_sweep: Callable[..., SweepFolder]) -> None:
    folder = make_sweep(a=["seed=1"], b=["seed=2"])  # its factor is called "run"
    write_sweep_report(folder)
    assert [row["factor run"] for row in rows_of(folder).values()] == ["a", "b"]
    assert [*rows_of(folder)] == ["a", "b"]
