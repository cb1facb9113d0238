"""The model card of an export: what it says, to the Hub and to people, and that no name breaks it."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tests.published.test_export import trained

from kikimimi import AudioPart, Conversation, Generation, Message, RequestError, TextPart
from kikimimi.console.terminal import visible
from kikimimi.contracts.metric import Score
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.published.exporting import export_run
from kikimimi.published.importing import import_model
from kikimimi.published.licences import Licence
from kikimimi.published.model_card import WrittenShape, code, fenced, table, words, write_card
from kikimimi.published.opening import opening
from kikimimi.published.provenance import Base, KnownScore, Provenance
from kikimimi.run.folder import RunFolder

HOSTILE = (
    '`x` | <b>*y*</b> [z](http://a.b) \n---\n"q": &a *b {{ 7 * 7 }} {% raw %} '
    "\x1b[2J \u202e www.c.d # ``` $e$"
)
STATED = "---\nlicense: cc-by-nc-4.0\n---\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("card")
    task = "{name: asr, request: 'Write what is said.'}"
    run = trained(
        "qwen2_audio",
        folder,
        f"evaluate.held_out={{shards: '{folder}/data/*.tar', task: {task}, metric: wer}}",
        "evaluate.held_out.generate.max_new_tokens=2",
        f"stages.finetune.data.speech.task={task}",
    )
    evaluate(run, ["held_out"])
    return run


@pytest.fixture
def stated(run: RunFolder) -> Any:
    """Writes the model card of the weights that the run began with."""
    card = run.path.with_name("published") / "README.md"

    def write(text: str) -> None:
        card.write_text(text, encoding="utf-8")

    yield write
    card.unlink(missing_ok=True)


def test_the_hub_is_told_what_the_model_is(run: RunFolder, tmp_path: Path, stated: Any) -> None:
    stated(STATED)
    export_run(run, "qwen2_audio", tmp_path / "out")
    card: Any = ModelCard.load(tmp_path / "out" / "README.md")
    said = card.data.to_dict()
    assert said["pipeline_tag"] == "audio-text-to-text"
    assert said["library_name"] == "transformers"
    assert said["license"] == "cc-by-nc-4.0"
    assert said["language"] == ["ja"]
    (result,) = card.data.eval_results
    assert (result.task_type, result.dataset_name) == ("automatic-speech-recognition", "held_out")
    assert (result.metric_type, result.metric_name) == ("wer", "WER (normaliser none)")
    low, high = result.metric_args["confidence_interval_95"]
    assert low <= result.metric_value <= high
    assert result.metric_args["utterances"] == 4
    for text in ("`finetune`", "`4 records, 0:04`", "`CC0-1.0: 4`", "`<|AUDIO|>`", "'Write what is said.'"):
        assert text in card.text
    assert str(tmp_path) not in card.text  # no path of this machine


def test_scores_of_other_weights_do_not_stand_there(run: RunFolder, tmp_path: Path) -> None:
    again = import_model(str(run.path.with_name("published")), tmp_path / "again")
    shutil.copytree(run.path / "evaluations", again.path / "evaluations")
    export_run(again, "qwen2_audio", tmp_path / "out")
    card: Any = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.eval_results is None
    assert "These weights were not scored." in card.text
    assert "Nothing: it is a published model, written again." in card.text
    assert "license: unknown" in card.content


def test_what_licences_forbid_is_said_before_anything_is_written(
    run: RunFolder, tmp_path: Path, stated: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stated(STATED)
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(Exception, match="is there and not empty"):
        export_run(run, "qwen2_audio", tmp_path / "out")
    (tmp_path / "out").unlink()
    with pytest.raises(RequestError, match="this model is no voxtral"):
        export_run(run, "voxtral", tmp_path / "out")
    said = capsys.readouterr().err
    assert re.search(r"The licence cc-by-nc-4\.0 of encoder\.weights .* forbids commercial use\.", said)


@pytest.mark.parametrize(
    ("card", "why"),
    [
        ("---\nlicense: cc-by-nd-4.0\n---\n", "forbids to pass on changed versions"),
        ("---\nlicense: apple-amlr\n---\n", "forbids any use but research"),
        ("---\nlicense: llama3.1\n---\n", "asks that the name of the model begins with 'Llama'"),
    ],
)
def test_what_may_not_be_published_is_not_pushed(
    run: RunFolder, tmp_path: Path, stated: Any, card: str, why: str
) -> None:
    stated(card)
    with pytest.raises(RequestError, match=rf"not pushed to org/model(.|\n)*{why}(.|\n)*--license-accepted"):
        export_run(run, "qwen2_audio", tmp_path / "out", push="org/model")
    assert not (tmp_path / "out").exists()
    export_run(run, "qwen2_audio", tmp_path / "out")  # for oneself
    spelled = card.split()[2]
    assert f"The licence {spelled} of" in shown((tmp_path / "out" / "README.md").read_text())


def shown(markdown: str) -> str:
    """Return the text of Markdown, as people see it."""
    body = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").enable("table").render(body))


def base(**changes: Any) -> Base:
    return replace(Base("llm.weights", "org/llm", "org/llm", Licence("apache-2.0")), **changes)


def made(run: RunFolder, *bases: Base) -> Provenance:
    return replace(Provenance.of(run, None), bases=bases)


SHAPE = WrittenShape("qwen2_audio", "Qwen2AudioForConditionalGeneration", "<|AUDIO|>", ("Note.",))


def test_bases_and_licences_that_differ_each_stand_in_a_file(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Licensed so.")
    parts = [
        base(),
        base(
            where="encoder.weights", hub_id="org/ears", licence=Licence("mit", files=(tmp_path / "LICENSE",))
        ),
    ]
    write_card(tmp_path, made(run, *parts), SHAPE)
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert data["base_model"] == ["org/llm", "org/ears"]
    assert (data["license"], data["license_link"]) == ("other", "LICENSE.md")
    assert "`mit`" in (tmp_path / "LICENSE.md").read_text()
    assert (tmp_path / "licences" / "encoder.weights-LICENSE").read_text() == "Licensed so."


def test_llama_is_named_where_its_licence_asks(run: RunFolder, tmp_path: Path) -> None:
    write_card(tmp_path, made(run, base(licence=Licence("llama3.2"))), SHAPE)
    assert "**Built with Llama.**" in (tmp_path / "README.md").read_text()
    assert made(run, base(licence=Licence("llama3"))).refusals("org/Llama-3-ears") == []
    assert made(run, base(licence=Licence("llama3"))).refusals("org/Llama-ears") != []


def test_the_right_that_somebody_states_stands_in_the_card(run: RunFolder, tmp_path: Path) -> None:
    parts = made(run, base(licence=Licence("cc-by-nd-4.0")))
    write_card(tmp_path, parts, SHAPE, repository="org/model", accepted=parts.refusals("org/model"))
    text = shown((tmp_path / "README.md").read_text())
    assert (
        "--license-accepted) to have the right to publish it. The licence cc-by-nd-4.0 of llm.weights" in text
    )


def test_no_name_breaks_the_card(run: RunFolder, tmp_path: Path) -> None:
    score = Score(metric="wer", value=1.0, unit="%", better="lower", normaliser=HOSTILE, count=1, skipped=0)
    hostile = made(run, base(source=HOSTILE, hub_id=None, licence=Licence("other", HOSTILE, HOSTILE)))
    write_card(
        tmp_path,
        replace(hostile, scores=(KnownScore(HOSTILE, False, score, None),)),
        replace(SHAPE, notes=[HOSTILE]),
    )
    card: Any = ModelCard.load(tmp_path / "README.md")
    assert card.data.license_name == visible(HOSTILE)
    (result,) = card.data.eval_results
    assert result.dataset_name == visible(HOSTILE)
    rendered = MarkdownIt("commonmark").enable("table").render(card.text)
    assert "<b>" not in rendered
    assert "<a " not in rendered
    assert "7 * 7" in rendered
    assert rendered.count("<table>") == 4
    assert "\x1b" not in card.content
    assert "\u202e" not in card.content


@pytest.mark.parametrize("text", [HOSTILE, "`", "``a", " a ", "a|b", "\\"])
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    seen = visible(text)
    render = MarkdownIt("commonmark").enable("table").render
    assert html.unescape(render(words(text))) == f"<p>{seen.strip()}</p>\n"
    assert html.unescape(render(code(text))) == f"<p><code>{seen}</code></p>\n"
    assert f"<td><code>{seen}</code></td>" in html.unescape(render("\n".join(table(["a"], [[text]]))))


def test_blocks_end_where_they_should() -> None:
    assert MarkdownIt().render(fenced("python", "a = '```'\n")).count("<code") == 1
    (piece,) = opening("qwen2_audio", "Model", "org/a", HOSTILE)
    compile(piece[1], "card", "exec")


def test_a_custom_model_is_opened_by_its_card(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = import_model(str(run.path.with_name("published")), tmp_path / "run", ["llm.chat_template=chatml"])
    export_run(again, "hf", tmp_path / "out")
    (piece,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    soundfile.write("clip.wav", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    opened: dict[str, Any] = {}
    exec(compile(piece.replace("max_new_tokens=200", "max_new_tokens=8"), "card", "exec"), opened)
    engine = Engine(load_model(again), torch.device("cpu"))
    clip = torch.from_numpy(opened["clip"])
    asked = Conversation((Message("user", (AudioPart("clip.wav"), TextPart("Transcribe the audio."))),))
    (answer,) = engine.answer([Prompt("asked", asked, [clip])], Generation(max_new_tokens=8))
    assert answer
    assert capsys.readouterr().out.strip().endswith(answer)
