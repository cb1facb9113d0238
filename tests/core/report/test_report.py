import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from kikimimi.contracts.metric import Score
from kikimimi.evaluation.score import EDITS, score
from kikimimi.inspect.describe import Description
from kikimimi.report.charts import Curve, line_chart
from kikimimi.report.page import save_page
from kikimimi.report.report import Example, ExampleGroup, Fact, Figure, Report, ScoreRow, render_report

REFERENCES = ["今日は晴れです。", "私は猫が好き。", "山に登った"]
GOOD = ["今日は晴れです", "私は犬が好き", "山登った"]
BAD = ["あ", "い", "う"]


def flac() -> bytes:
    file = BytesIO()
    soundfile.write(file, np.zeros(1600, dtype=np.float32), 16000, format="FLAC")
    return file.getvalue()


def row(
    system: str, predictions: list[str], normaliser: str = "none", metric: str = "cer", **more: Any
) -> ScoreRow:
    result = score(REFERENCES, predictions, metric=metric, normaliser=normaliser)
    return ScoreRow(evaluation="held-out", system=system, score=result, **more)


def example(**changes: Any) -> Example:
    fields: dict[str, Any] = {
        "evaluation": "held-out",
        "key": "clip-7",
        "reference": REFERENCES[1],
        "predictions": {"ours": GOOD[1]},
        "normaliser": "whisper-basic-nospace",
    }
    return Example(**(fields | changes))


EMPTY = Report(title="A run", created=datetime(2026, 11, 22, 16, 30, tzinfo=UTC))
FULL = replace(
    EMPTY,
    facts=[Fact(label="Trained parameters", value="5.2 M", note="of 9.9 M")],
    scores=[row("ours", GOOD, seconds=83.2), row("theirs", BAD)],
    charts=[
        line_chart([Curve(name="training", points=[(0, 4.0), (10, 2.0)])], title="Loss"),
        line_chart([Curve(name="adapter", points=[(0, 0.0), (10, 1e-3)])], title="Learning rate", exact=True),
    ],
    examples=[
        ExampleGroup(title="Worst", note="The worst one.", examples=[example(audio=flac(), language="ja")])
    ],
    counts=[
        Figure(label="Padded positions [%]", value=3.4, note="of 1,203"),
        Figure(label="Clips cut", value=0),
    ],
    components=[
        Description("encoder", "whisper", "kikimimi", "0.1.0", None, 20_000, 0, None),
        Description("adapter", "mlp", "other", "2.0", None, 3_000, 3_000, None),
    ],
    recipe="name: quickstart\n",
    commands=["kikimimi train quickstart.yaml", "kikimimi evaluate runs/quickstart"],
)


class Page(HTMLParser):
    """Collects the elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag in ("dt", "dd", "th", "td"):
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for tag, attributes in self.elements if tag == "section"]

    def addresses(self) -> Iterator[str]:
        for _, attributes in self.elements:
            for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
                if attributes.get(name) is not None:
                    yield attributes[name] or ""


def test_everything_given_is_shown() -> None:
    page = Page(render_report(FULL))
    assert page.ids() == ["scores", "training", "examples", "counts", "components", "reproduce", "recipe"]
    for text in (
        "A run 2026-11-22 16:30 UTC",
        "Trained parameters 5.2 M",
        "held-out CER · normaliser none 89928ca727e1 · 3 pairs · 20 characters",
        "training 2 at step 10",
        "adapter 0.001 at step 10",
        "Worst The worst one. held-out · clip-7 · normaliser whisper-basic-nospace 私は猫が好き。",
        "Padded positions [%] 3.4 of 1,203 Clips cut 0",
        "encoder whisper kikimimi 0.1.0 20,000 0 adapter mlp other 2.0 3,000 3,000 total 23,000 3,000",
        "kikimimi train quickstart.yaml kikimimi evaluate runs/quickstart",
        "name: quickstart",
    ):
        assert text in page.text


def test_sections_without_content_are_left_out() -> None:
    page = Page(render_report(EMPTY))
    assert page.ids() == []
    assert not {"dl", "table", "figure", "article", "pre"} & {tag for tag, _ in page.elements}
    assert (
        Page(render_report(replace(EMPTY, examples=[ExampleGroup(title="a", note="", examples=[])]))).ids()
        == []
    )
    assert Page(render_report(replace(EMPTY, counts=FULL.counts))).ids() == ["counts"]


def test_the_page_needs_nothing_else() -> None:
    html = render_report(FULL)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert [address for address in page.addresses() if not address.startswith("data:")] == []
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in html
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements
    assert "prefers-color-scheme: dark" in html


def test_the_numbers_are_those_of_score() -> None:
    ours, theirs = FULL.scores
    text = Page(render_report(FULL)).text
    for line, compute in ((ours, "1:23"), (theirs, "")):
        value, counts = line.score.value, [line.score.details[kind] for kind in EDITS]
        shown = f"{line.system} {value:.2f} % {line.score.ends} {counts[0]} {counts[1]} {counts[2]} {compute}"
        assert shown.strip() in text


def test_a_metric_that_counts_no_edits_and_of_which_higher_is_better() -> None:
    given: Any = {
        "metric": "wer",
        "unit": "",
        "better": "higher",
        "normaliser": "none",
        "count": 3,
        "skipped": 0,
    }
    values = {"low": 1.5, "high": 2.5}
    scores = [
        ScoreRow(
            evaluation="e",
            system=name,
            score=Score(**given, value=value, details={"reference_length": 9}),
        )
        for name, value in values.items()
    ]
    html = render_report(replace(EMPTY, scores=scores))
    assert re.findall(r"<strong>([\d.]+)", html) == ["2.50"]
    assert "low 1.50" in Page(html).text


def test_skipped_pairs_are_shown() -> None:
    result = score([*REFERENCES, "。"], [*GOOD, ""], metric="cer", normaliser="whisper-basic-nospace")
    line = ScoreRow(evaluation="e", system="s", score=result)
    text = Page(render_report(replace(EMPTY, scores=[line]))).text
    assert "3 pairs · 18 characters · 1 not scored (empty reference)" in text
    assert "not scored" not in Page(render_report(FULL)).text


def test_compute_has_a_column_only_where_it_is_known() -> None:
    assert "Compute" in Page(render_report(FULL)).text
    assert "Compute" not in Page(render_report(replace(EMPTY, scores=[row("ours", GOOD)]))).text


def bold(html: str) -> list[tuple[str, str]]:
    found = re.findall(
        r'<tr class="best">\s*<th scope="row">([^<]+)</th>\s*'
        r'<td class="number rate"><strong>([\d.]+)&nbsp;%</strong>',
        html,
    )
    assert len(found) == html.count("<strong>") == html.count('class="best"')
    return found


def test_the_best_of_each_evaluation_is_bold() -> None:
    assert bold(render_report(FULL)) == [("ours", f"{FULL.scores[0].score.value:.2f}")]
    # A tie in what is shown is a tie; a system alone is not the best of anything.
    tie = [row("a", GOOD), row("b", GOOD), row("c", BAD)]
    assert [system for system, _ in bold(render_report(replace(EMPTY, scores=tie)))] == ["a", "b"]
    assert bold(render_report(replace(EMPTY, scores=tie[:1]))) == []


def test_rates_of_different_form_are_not_compared() -> None:
    rows = [
        row("plain", GOOD),
        row("normalised", GOOD, normaliser="whisper-basic-nospace"),
        row("words", GOOD, metric="wer"),
        row("plain too", BAD),
    ]
    html = render_report(replace(EMPTY, scores=rows))
    assert [system for system, _ in bold(html)] == ["plain"]
    text = Page(html).text
    assert (
        text.index("plain too")
        < text.index("normalised ")
        < text.index("WER · normaliser none 89928ca727e1 · 3 pairs · 3 words")
    )


def test_fewer_pairs_are_another_evaluation() -> None:
    fewer = score(REFERENCES[:1], REFERENCES[:1], metric="cer", normaliser="none")
    rows = [row("all", GOOD), ScoreRow(evaluation="held-out", system="some", score=fewer), row("bad", BAD)]
    assert [system for system, _ in bold(render_report(replace(EMPTY, scores=rows)))] == ["all"]


HOSTILE = "<script>alert('x')</script>&\"<img src=x onerror=y>"


def test_text_cannot_become_markup(tmp_path: Path) -> None:
    hostile = replace(
        FULL,
        title=HOSTILE,
        facts=[Fact(label=HOSTILE, value=HOSTILE, note=HOSTILE)],
        scores=[replace(FULL.scores[0], system=HOSTILE, evaluation=HOSTILE)],
        charts=[line_chart([Curve(name=HOSTILE, points=[(0, 1.0)])], title="Loss")],
        examples=[
            ExampleGroup(
                title=HOSTILE,
                note=HOSTILE,
                examples=[
                    example(
                        evaluation=HOSTILE,
                        key=HOSTILE,
                        reference=HOSTILE,
                        predictions={HOSTILE: "a" + HOSTILE[3:] + "</dd>"},
                        normaliser="none",
                        language='"><script>',
                    )
                ],
            )
        ],
        counts=[Figure(label=HOSTILE, value=1, note=HOSTILE)],
        components=[
            replace(FULL.components[0], kind=HOSTILE, name=HOSTILE, distribution=HOSTILE, version=HOSTILE)
        ],
        recipe="</code></pre>" + HOSTILE,
        commands=[HOSTILE],
    )
    html = render_report(hostile)
    page = Page(html)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert [tag for tag, _ in page.elements].count("dd") == html.count("</dd>")
    assert page.text.count(" ".join(HOSTILE.split())) >= 14


def test_written_as_one_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.html"
    save_page(path, render_report(FULL))
    assert path.read_text(encoding="utf-8") == render_report(FULL)
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_answers_that_were_cut_or_loop_are_shown() -> None:
    row = FULL.scores[0]
    counted = replace(row, system="counted", score=replace(row.score, truncated=1234, looped=5, thoughts=2))
    text = Page(render_report(replace(FULL, scores=[counted]))).text
    assert "1,234 5" in text
    assert "Cut: answers that ended because no more tokens were allowed" in text
    assert "before they answer is not scored" in text
    assert "Cut:" not in Page(render_report(FULL)).text


def test_what_an_interval_draws_and_a_failed_guard_are_seen_at_once() -> None:
    scores = [row("plain", GOOD)]
    scores = [replace(scores[0], score=replace(scores[0].score, interval_by="speaker"))]
    facts = [
        Fact(label="guards", value="1 of 6 failed", failed=True),
        Fact(label="guards", value="none failed"),
    ]
    html = render_report(replace(EMPTY, scores=scores, facts=facts))
    assert "none 89928ca727e1 · 95 % of whole groups by speaker · 3 pairs" in Page(html).text
    assert '<dd class="failed">1 of 6 failed' in html
    assert "<dd>none failed" in html
