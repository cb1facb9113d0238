"""The pages of a sweep: what they say of a summary that is made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

from kikimimi.sweeps.summary import (
    Effect,
    EvaluationSummary,
    SettingPair,
    SettingScore,
    SettingSummary,
    SweepSummary,
    UnfinishedRun,
)
from kikimimi.sweeps.sweep_page import sweep_page
from kikimimi.sweeps.sweep_tables import settings_latex, settings_markdown


def made_setting(number: int, names: tuple[str, ...]) -> SettingSummary:
    levels = {name: f"{name[0]}{number // 2**place % 2}" for place, name in enumerate(names)}
    value = 20.0 + number
    score = SettingScore(
        value=value,
        low=value - 3,
        high=value + 3,
        seeds={"0": value - 1, "1": value + 1},
        best=number < 2,
        parts={"length": {"0 to 2 s": value + 5, "2 to 5 s": value - 5}},
    )
    return SettingSummary(
        name=", ".join(f"{name}={label}" for name, label in levels.items()) + f" #{number}",
        levels=levels,
        scores={"held_out": score},
        finished=2,
        runs=2,
        trainable=1000 * 2 ** (number % 5),
        seconds=60.0 + 7 * (number % 3),
        speed=12.5,
        memory=2.5e9,
        curves={seed: [(step, value / step) for step in (1, 2, 3)] for seed in "01"},
    )


def made_summary(count: int = 4, names: tuple[str, ...] = ("adapter", "stages.a&b.size")) -> SweepSummary:
    settings = [made_setting(number, names) for number in range(count)]
    pairs = [
        SettingPair(
            one=settings[0].name,
            other=other.name,
            difference=-float(number),
            low=-number - 2.0,
            high=2.0 - number,
            p=0.4 if number == 1 else 0.0004,
            needed="about 3 more seeds of each" if number == 1 else "",
        )
        for number, other in enumerate(settings[1:], start=1)
    ]
    effects = {
        name: [Effect(levels={name: f"{name[0]}{i}"}, value=i - 0.5, low=i - 1, high=i) for i in (0, 1)]
        for name in names
    }
    both = {
        (names[0], names[1]): [
            Effect(levels={names[0]: f"a{i}", names[1]: f"s{j}"}, value=0.3, low=0.1, high=0.5)
            for i in (0, 1)
            for j in (0, 1)
        ]
    }
    evaluation = EvaluationSummary(
        name="held_out",
        label="CER",
        unit="%",
        better="lower",
        clips=50,
        effects=effects,
        interactions=both,
        pairs=pairs,
        notes=["one seed of <b>: nothing is said of others"],
    )
    failed = UnfinishedRun(
        setting=settings[-1].name,
        seed="2",
        state="failed",
        cause="out of memory: " + "x" * 300,
        log="logs/a.log",
    )
    return SweepSummary(
        name="adapters",
        recipe="recipe.yaml",
        factors={name: [f"{name[0]}0", f"{name[0]}1"] for name in names},
        seeds=["0", "1"],
        search="grid",
        settings=settings,
        evaluations=[evaluation],
        unfinished=[failed, replace(failed, state="running", seed="3", cause="")],
        states={"finished": 2 * count, "failed": 1, "running": 1},
        differs={"adapter.name": {one.name: one.levels[names[0]] for one in settings}},
        notes=["run-7: metrics.jsonl is damaged"],
        command="kikimimi sweep out/sweeps/adapters",
    )


def test_tables_for_papers_mark_the_best_and_escape() -> None:
    markdown, latex = settings_markdown(made_summary()), settings_latex(made_summary())
    assert "| a0 | s0 | **20.00** (17.00 to 23.00) | 2/2 | 1,000 | 1:00 |" in markdown
    assert "| a0 | s1 | 22.00 (19.00 to 25.00) |" in markdown
    assert r"a0 & s0 & \textbf{20.00} (17.00 to 23.00) & 2/2 & 1,000 & 1:00 \\" in latex
    assert "held\\_out CER [\\%]" in latex


def test_of_settings_that_nothing_tells_apart_none_is_marked() -> None:
    summary = made_summary()
    settings = [
        replace(one, scores={name: replace(score, best=False) for name, score in one.scores.items()})
        for one in summary.settings
    ]
    markdown = settings_markdown(replace(summary, settings=settings))
    assert "**" not in markdown


def render_sweep(summary: SweepSummary) -> str:
    tables = {"Markdown": settings_markdown(summary), "LaTeX": settings_latex(summary)}
    return sweep_page(summary, datetime(2026, 1, 2, tzinfo=UTC), tables)


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page)


def test_a_page_says_all_that_a_summary_holds() -> None:
    page = render_sweep(made_summary())
    assert sections(page) == [
        "settings",
        "comparisons",
        "effects",
        "costs",
        "parts",
        "curves",
        "failed",
        "differs",
        "tables",
        "unread",
        "reproduce",
    ]
    assert "Not finished: 1 run is being trained." in page
    assert "<strong>20.00</strong>" in page
    assert "<strong>22.00</strong>" not in page
    assert "open; to settle it: about 3 more seeds of each" in page
    assert page.count("<td>worse</td>") == 2
    assert "<summary>out of memory: x" in page  # long causes are folded
    assert '<td>a0</td><td class="muted">1, 3</td>' in page
    assert "one seed of &lt;b&gt;" in page
    assert "<b>" not in page


def test_without_results_there_is_little_to_say() -> None:
    summary = replace(
        made_summary(), settings=[], evaluations=[], differs={}, notes=[], states={"failed": 1, "waiting": 3}
    )
    page = render_sweep(summary)
    assert sections(page) == ["failed", "reproduce"]
    assert "3 runs wait." in page


def test_where_all_is_settled_nothing_is_said_to_be_open() -> None:
    summary = made_summary()
    (evaluation,) = summary.evaluations
    settled = replace(evaluation, pairs=[replace(pair, p=0.001) for pair in evaluation.pairs])
    assert "the rest is open" in render_sweep(summary)
    assert "the rest is open" not in render_sweep(replace(summary, evaluations=[settled]))


def test_without_scores_the_page_says_so() -> None:
    summary = made_summary()
    settings = [replace(one, scores={}) for one in summary.settings]
    page = render_sweep(replace(summary, settings=settings, evaluations=[]))
    assert "No finished run has a score: settings are not compared." in page
    assert "No finished run has a score" not in render_sweep(summary)


def test_settings_without_results_stand_in_the_table_too() -> None:
    summary = made_summary()
    waiting = replace(summary.settings[3], scores={}, finished=0)
    page = render_sweep(replace(summary, settings=[*summary.settings[:3], waiting]))
    assert "0&nbsp;of&nbsp;2" in page
    assert page.count('<td class="number muted">') == 4


def test_costs_that_are_all_but_equal_make_no_picture() -> None:
    summary = made_summary()
    close = [replace(one, trainable=4_386_048 + number) for number, one in enumerate(summary.settings)]
    page = render_sweep(replace(summary, settings=close))
    assert "held_out: CER against trained parameters" in render_sweep(summary)
    assert "held_out: CER against trained parameters" not in page
    assert "held_out: CER against time of a run" in page


def test_many_settings_fit() -> None:
    page = render_sweep(made_summary(40, ("adapter", "size", "lr")))
    assert "20 more in the table." in page
    assert "38 settings shown to be worse</summary>" in page
    assert "The best 8 of 40 settings." in page
    assert "The best 4; 36 more in the table." in page
    assert set(re.findall(r"line-\d", page.partition('id="curves"')[2])) == {f"line-{n}" for n in range(8)}


def test_one_seed_and_one_setting_make_a_page() -> None:
    one = made_setting(0, ("adapter", "stages.a&b.size"))
    score = SettingScore(value=5.0, low=None, high=None, seeds={"": 5.0})
    setting = replace(one, scores={"held_out": score}, curves={}, trainable=None, seconds=None)
    evaluation = EvaluationSummary(name="held_out", label="CER", unit="%", better="lower", clips=1)
    summary = replace(
        made_summary(), settings=[setting], evaluations=[evaluation], unfinished=[], notes=[], differs={}
    )
    assert sections(render_sweep(summary)) == ["settings", "tables", "reproduce"]
    assert "No test was made." in render_sweep(summary)
