import base64
import re
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from markupsafe import Markup

from kikimimi.errors import PluginError
from kikimimi.evaluation.error_rate import edits
from kikimimi.evaluation.score import score
from kikimimi.report.page import save_page
from kikimimi.report.report import Example, ExampleGroup, Report, difference, render_report

REFERENCE, PREDICTION = "私は猫が好き。", "私は犬が好き"


def flac() -> bytes:
    file = BytesIO()
    soundfile.write(file, np.zeros(1600, dtype=np.float32), 16000, format="FLAC")
    return file.getvalue()


def example(**changes: Any) -> Example:
    fields: dict[str, Any] = {
        "evaluation": "held-out",
        "key": "clip-7",
        "reference": REFERENCE,
        "predictions": {"ours": PREDICTION},
        "normaliser": "whisper-basic-nospace",
    }
    return Example(**(fields | changes))


def report(*examples: Example) -> Report:
    group = ExampleGroup(title="Worst", note="", examples=examples)
    return Report(title="A run", created=datetime(2026, 11, 22), examples=[group])


def text_of(html: str) -> str:
    return " ".join(Markup(html).striptags().split())


def test_the_difference_is_marked() -> None:
    marked = difference(edits("私は猫が好きだ", "私も犬が大好き"))
    assert marked == (
        '私<span class="sub"><del>は猫</del><ins>も犬</ins></span>が<ins>大</ins>好き<del>だ</del>'
    )
    assert difference(edits("a<b", "a<c")) == 'a&lt;<span class="sub"><del>b</del><ins>c</ins></span>'
    html = render_report(report(example()))
    assert '私は<span class="sub"><del>猫</del><ins>犬</ins></span>が好き</dd>' in html
    for kind in (
        "<del>missing</del>",
        "<ins>added</ins>",
        '<span class="sub"><del>said</del><ins>written</ins></span>',
    ):
        assert kind in html


def test_the_rate_of_an_example_is_that_of_score() -> None:
    predictions = {"ours": PREDICTION, "none": "", "same": REFERENCE}
    text = text_of(render_report(report(example(predictions=predictions))))
    for system, prediction in predictions.items():
        rate = score([REFERENCE], [prediction], metric="cer", normaliser="whisper-basic-nospace").value
        assert f"{system} CER {rate:.1f} %" in text
    assert text.count("(empty)") == 1  # as written; what was compared shows the deleted reference


def test_an_example_without_reference_has_no_rate() -> None:
    silent = example(reference="。", predictions={"ours": "はい", "theirs": "。"})
    text = text_of(render_report(report(silent)))
    assert "ours CER n/a はい" in text
    assert "theirs CER n/a (empty)" in text


def test_the_clip_can_be_played() -> None:
    html = render_report(report(example(audio=flac(), language="ja"), example(key="clip-8")))
    (data,) = re.findall(
        r'<audio controls preload="none" src="data:audio/flac;base64,([^"]+)"></audio>', html
    )
    samples, rate = soundfile.read(BytesIO(base64.b64decode(data)))
    assert (len(samples), rate) == (1600, 16000)


def test_the_language_is_marked_where_it_is_known() -> None:
    assert '<p class="reference text" lang="ja">' in render_report(report(example(language="ja")))
    assert '<p class="reference text">' in render_report(report(example()))


def test_text_and_markup_stay_apart_in_a_difference() -> None:
    said, wrote = "a<b>&amp;", "a<i>&amp;"
    html = render_report(report(example(reference=said, predictions={"ours": wrote}, normaliser="none")))
    assert 'a&lt;<span class="sub"><del>b</del><ins>i</ins></span>&gt;&amp;amp;</dd>' in html


def test_audio_that_is_not_flac() -> None:
    with pytest.raises(ValueError, match="example 'clip-7': the audio is not a FLAC file"):
        example(audio=b"RIFF")


def test_an_unknown_normaliser() -> None:
    with pytest.raises(PluginError, match="no normaliser is called 'nonee'"):
        render_report(report(example(normaliser="nonee")))


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    save_page(tmp_path / "report.html", render_report(report(example(predictions={"ours": "あ\ud83d"}))))
    assert "あ\\ud83d" in (tmp_path / "report.html").read_text(encoding="utf-8")
