from __future__ import annotations

from dataclasses import replace

from kikimimi.evaluation.bootstrap import Comparison
from kikimimi.evaluation.score import score
from kikimimi.report.paper_table import latex_table, latex_text, markdown_table, markdown_text
from kikimimi.report.report import ScoreRow, best_of, pair_of

RIGHT, WRONG = ["abcd"] * 4, ["abcd", "abxx", "abcd", "xxxx"]


def row(system: str, predictions: list[str], *, evaluation: str = "test", **more: object) -> ScoreRow:
    found = score(RIGHT, predictions, metric="cer", normaliser="none")
    return ScoreRow(evaluation=evaluation, system=system, score=found, **more)  # type: ignore[arg-type]


def differs(difference: float, low: float, high: float) -> Comparison:
    return Comparison(difference=difference, low=low, high=high, differ=2, count=4)


ROWS = [
    row("ours_8b", RIGHT, against={"near": differs(-37.5, -80, 2), "far|off": differs(-37.5, -80, -9)}),
    row("near", WRONG),
    row("far|off", WRONG),
    row("ours_8b", RIGHT, evaluation="other"),
    row("ours_8b", WRONG, evaluation="other", note="changed after training"),
]


def test_markdown() -> None:
    lines = markdown_table(ROWS, "ours_8b").splitlines()
    assert lines[:5] == [
        "| System | test CER [%] | other CER [%] |",
        "|---|---:|---:|",
        "| ours\\_8b | **0.00** (0.00-0.00) | 0.00 (0.00-0.00) |",
        "| near | **37.50** (0.00-75.00) |  |",  # what the test cannot tell from the best
        "| far\\|off | 37.50* (0.00-75.00) |  |",
    ]
    assert lines[-1].endswith("Normaliser: none 89928ca727e1. Utterances: test: 4, other: 4.")
    speakers = replace(ROWS[3], score=replace(ROWS[3].score, interval_by="speaker"))
    said = markdown_table([speakers], "ours_8b").splitlines()[-1]
    assert said.endswith("Utterances: other: 4 (drawn of whole groups by speaker).")


def test_latex() -> None:
    lines = latex_table(ROWS, "ours_8b").splitlines()
    assert lines[2] == r"System & test CER [\%] & other CER [\%] \\"
    assert lines[4] == r"ours\_8b & \textbf{0.00} (0.00-0.00) & 0.00 (0.00-0.00) \\"
    assert lines[6] == r"far\textbar{}off & 37.50* (0.00-75.00) &  \\"
    assert lines[-1].startswith("% In brackets: 95 % intervals")


def test_the_best_are_those_that_the_paired_test_does_not_tell_apart() -> None:
    assert best_of(ROWS[:3]) == {"ours_8b", "near"}
    assert best_of(ROWS[3:4]) == frozenset()  # of one alone nothing is said
    assert best_of([row("a", RIGHT), row("b", WRONG)]) == {"a"}  # without a test, by the value
    turned = pair_of(ROWS[:3], "far|off", "ours_8b")
    assert turned == differs(37.5, 9, 80)
    assert pair_of(ROWS[:3], "near", "far|off") is None


def test_texts_stay_on_their_line_and_in_their_cell() -> None:
    assert markdown_text("two\n| lines") == "two\\\\n\\| lines"
    assert markdown_text("$x$ &lt; ~~a~~") == r"\$x\$ \&lt; \~\~a\~\~"
    assert markdown_text("$x$ &lt; ~~a~~") == r"\$x\$ \&lt; \~\~a\~\~"
    assert latex_text("two\nlines <b>|") == r"two\textbackslash{}nlines \textless{}b\textgreater{}\textbar{}"
    # After the \\ of the row before, [1] would be a length, and a star a variant of it.
    assert latex_text("[1]") == "{}[1]"
    assert latex_text("*a") == "{}*a"
    assert latex_text("a [%]") == r"a [\%]"
