"""Transcriptions by OpenAI's own client, from a real server."""

from __future__ import annotations

import json
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from openai import OpenAI
from tests.core.serving.by_hand import ByHand, answer, scatter
from tests.core.serving.sounds import audio_file, chord, noise

from kikimimi.contracts import registry
from kikimimi.data.audio import decode
from kikimimi.inference.alignment import word_times
from kikimimi.inference.engine import Prompt
from kikimimi.inference.recording import cut_recording
from kikimimi.inference.transcript import join_texts
from kikimimi.recipe import Chosen
from kikimimi.run.folder import RunFolder
from kikimimi.serving.refusal import RefusalError
from kikimimi.serving.service import Service
from kikimimi.training.train import train
from kikimimi_tasks.translate import Translate


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def expected(service: Service, *clips: NDArray[np.float32]) -> list[str]:
    """Return what the engine answers about clips as they are decoded from 16-bit files."""
    question = registry.load("task", "asr")(registry.load("task", "asr").Config()).question(None)
    decoded = [decode(audio_file(clip), sample_rate=16000, name="clip") for clip in clips]
    prompts = [Prompt("", question, [torch.from_numpy(clip)]) for clip in decoded]
    return [str(found.spoken) for found in service.engine.engine.answer(prompts, service.generation)]


def test_200_requests_together(
    url: str, service: Service, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """Of mixed lengths: none is lost, and none gets the answer of another."""
    rng = Random(0)
    clips = [chord(rng.uniform(0.2, 1.9), seed) for seed in range(200)]
    wanted = expected(service, *clips)
    assert len(set(wanted)) > 100
    with (
        OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
        ThreadPoolExecutor(200) as threads,
    ):

        def ask(clip: NDArray[np.float32]) -> str:
            return client.audio.transcriptions.create(model="small", file=("a.wav", audio_file(clip))).text

        assert list(threads.map(ask, clips)) == wanted
    wait_for(lambda: service.load.requests == service.load.held == 0)
    assert not service.asker.places.locked()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_kinds_of_files(client: OpenAI, service: Service, kind: str) -> None:
    content = audio_file(noise(1.0, 3), kind)
    found = client.audio.transcriptions.create(model="small", file=("a", content))
    assert found.text
    assert found.usage.seconds == pytest.approx(1.0, abs=0.06)  # type: ignore[union-attr]
    if kind in ("WAV", "FLAC"):
        assert [found.text] == expected(service, noise(1.0, 3))


def test_long_audio_is_cut_into_pieces(client: OpenAI, service: Service) -> None:
    """Each piece is asked about alone, and the texts are joined; every format tells the same."""
    clip = np.concatenate([noise(1.6, 1), np.zeros(3200, np.float32), noise(1.5, 2), noise(1.2, 3)])
    content = audio_file(clip)
    made = client.audio.transcriptions.create(
        model="small", file=("a.wav", content), response_format="verbose_json"
    )
    assert made.segments is not None
    assert made.duration == pytest.approx(4.5)
    assert made.segments[0].start == 0
    assert made.segments[-1].end == pytest.approx(4.5)
    assert all(0 < one.end - one.start <= 2 for one in made.segments)
    assert len(made.segments) >= 3
    pieces = [clip[round(16000 * one.start) : round(16000 * one.end)] for one in made.segments]
    assert [one.text for one in made.segments] == expected(service, *pieces)
    assert made.text == join_texts([one.text for one in made.segments])

    def text(form: Any) -> str:
        return str(
            client.audio.transcriptions.create(model="small", file=("a.wav", content), response_format=form)
        )

    assert text("text") == f"{made.text}\n"
    srt, vtt = text("srt"), text("vtt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.")
    assert len(re.findall(" --> ", srt)) == len(re.findall(" --> ", vtt)) == len(made.segments)
    events = list(client.audio.transcriptions.create(model="small", file=("a.wav", content), stream=True))
    assert [event.type for event in events] == ["transcript.text.delta"] * (len(events) - 1) + [
        "transcript.text.done"
    ]
    assert "".join(event.delta for event in events[:-1]) == made.text  # type: ignore[union-attr]
    assert events[-1].text == made.text  # type: ignore[union-attr]


def test_times_of_words(run: RunFolder, serve: Callable[..., Any], tmp_path: Path) -> None:
    """Those that the run's CTC head tells of each piece, from the recording's beginning."""
    ears = RunFolder.create(tmp_path / "ears", replace(run.recipe, adapter=Chosen.of("adapter", "ctc")))
    train(ears)
    service = scatter(Service(ears, device=torch.device("cpu"), cut="quietest"))
    clip = np.concatenate([noise(1.6, 1), noise(1.5, 2)])
    with serve(service) as there, OpenAI(base_url=f"{there}/v1", api_key="any", max_retries=0) as client:

        def ask(content: bytes, *times: Any) -> Any:
            return client.audio.transcriptions.create(
                model="small",
                file=("a.wav", content),
                response_format="verbose_json",
                timestamp_granularities=list(times),
            )

        made = ask(audio_file(clip), "word", "segment")
        heard = decode(audio_file(clip), sample_rate=16000, name="clip")
        wanted: list[tuple[str, float, float]] = []
        for segment in made.segments:
            piece = heard[round(16000 * segment.start) : round(16000 * segment.end)]
            found = word_times(service.engine.engine, piece, segment.text)
            wanted += [(word.word, segment.start + word.start, segment.start + word.end) for word in found]
        assert len(made.segments) == 2
        assert max(start for _, start, _ in wanted) > made.segments[1].start
        assert [word.word for word in made.words] == [word for word, _, _ in wanted]
        told = [time for word in made.words for time in (word.start, word.end)]
        assert told == pytest.approx([time for _, *times in wanted for time in times], abs=2e-3)
        assert ask(audio_file(np.zeros(16000, np.float32)), "word").words == []
        assert ask(audio_file(clip), "segment").words is None


def test_what_was_answered_is_let_go(
    by_hand: Callable[..., tuple[str, ByHand, Service]], wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    """Of a long recording no more is held than the pieces that are asked about."""
    url, engine, _ = by_hand()
    with ThreadPoolExecutor(1) as threads:
        form: dict[str, Any] = {"files": {"file": audio_file(noise(3.0))}, "data": {"model": "small"}}
        asked = threads.submit(httpx.post, f"{url}/v1/audio/transcriptions", **form)
        first = weakref.ref(engine.reply())
        answer(engine.reply(), "a")
        engine.reply(1)
        engine.asked[0] = engine.asked[1]
        wait_for(lambda: first() is None)
        answer(engine.reply(1), "b")
        assert asked.result().json()["text"] == "a b"


def test_what_nobody_says_is_left_out(run: RunFolder) -> None:
    blocks = [noise(1.6, 1), noise(1.6, 2)]
    spoken = Service(run, device=torch.device("cpu"))
    assert list(spoken.cut(iter(blocks))) == []
    assert [piece.start for piece in spoken.cut(iter(blocks[:1]))] == [0]  # no longer than the window
    whole = Service(run, device=torch.device("cpu"), cut="quietest")
    assert sum(len(piece.samples) for piece in whole.cut(iter(blocks))) == 2 * 25_600


def test_subtitles_end_at_pauses(client: OpenAI, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float | None] = []

    def cut(blocks: Any, *, cut: str, pause: float | None, **rest: Any) -> Any:
        assert cut == "silence" or pause is None
        told.append(pause)
        return cut_recording(blocks, cut="quietest", **rest)

    monkeypatch.setattr("kikimimi.serving.service.cut_recording", cut)
    content = audio_file(noise(1.0, 1))
    client.audio.transcriptions.create(model="small", file=("a.wav", content), response_format="srt")
    assert told.pop() is None  # this server leaves nothing out (--cut quietest)
    monkeypatch.setattr(service, "_cut", "silence")
    for form in ("srt", "json", "vtt", "text"):
        client.audio.transcriptions.create(model="small", file=("a.wav", content), response_format=form)
    assert told == [0.5, None, 0.5, None]
    monkeypatch.setattr(service, "_pause", 0.3)
    client.audio.transcriptions.create(model="small", file=("a.wav", content))
    assert told[-1] == 0.3


def test_silence_is_not_asked_about(client: OpenAI) -> None:
    quiet = audio_file(np.zeros(5 * 16000, np.float32))
    found = client.audio.transcriptions.create(
        model="small", file=("a.wav", quiet), response_format="verbose_json"
    )
    assert (found.text, found.segments, found.duration) == ("", [], 5.0)
    events = list(client.audio.transcriptions.create(model="small", file=("a.wav", quiet), stream=True))
    assert [event.type for event in events] == ["transcript.text.done"]


def test_texts_come_as_they_are_made(by_hand: Callable[..., tuple[str, ByHand, Service]]) -> None:
    url, engine, _ = by_hand()
    form: dict[str, Any] = {"data": {"model": "small", "stream": "true"}}
    # The status comes with the first text.
    threading.Thread(target=lambda: engine.reply().give("good")).start()
    with httpx.stream(
        "POST", f"{url}/v1/audio/transcriptions", files={"file": audio_file(noise(3.0))}, **form
    ) as got:
        lines = (json.loads(line[6:]) for line in got.iter_lines() if line.startswith("data: {"))
        first = engine.reply()
        assert next(lines) == {"type": "transcript.text.delta", "delta": "good"}
        first.give(" day")
        assert next(lines)["delta"] == " day"
        # What comes next was asked meanwhile.
        second = engine.reply(1)
        answer(second, "to you")
        answer(first)
        assert [next(lines)["delta"] for _ in range(2)] == [" ", "to you"]
        done = next(lines)
    assert done["type"] == "transcript.text.done"
    assert "cut_segments" not in done


def test_answers_that_are_cut_are_counted(by_hand: Callable[..., tuple[str, ByHand, Service]]) -> None:
    url, engine, service = by_hand()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(
            httpx.post,
            f"{url}/v1/audio/transcriptions",
            files={"file": audio_file(noise(3.0))},
            data={"model": "small"},
        )
        answer(engine.reply(), "a", cut=True)
        answer(engine.reply(1), "b")
    assert asked.result().json() == {
        "text": "a b",
        "usage": {"type": "duration", "seconds": 3.0},
        "cut_segments": 1,
    }
    said = service.metrics.text().decode()
    assert "kikimimi_cut_answers_total 1.0" in said
    assert 'kikimimi_tokens_total{kind="prompt"} 14.0' in said
    assert 'kikimimi_tokens_total{kind="answer"} 2.0' in said
    assert "kikimimi_audio_seconds_total 3.0" in said


def test_how_it_answers(by_hand: Callable[..., tuple[str, ByHand, Service]]) -> None:
    url, engine, _ = by_hand()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(
            httpx.post,
            f"{url}/v1/audio/transcriptions",
            files={"file": ("../../etc/passwd\x00\r\n", audio_file(noise(1.0)))},
            data={"model": "small", "language": "en", "temperature": "0.5", "chunking_strategy": "auto"},
        )
        reply = engine.reply()
        answer(reply, "x")
    assert asked.result().json()["text"] == "x"
    assert (reply.generation.temperature, reply.generation.max_new_tokens) == (0.5, 12)
    asr = registry.load("task", "asr")
    assert reply.prompt.conversation == asr(asr.Config()).question("en")
    assert reply.prompt.name == ""


@pytest.mark.fault(
    "Clients of the server: parameters that are wrong or not supported",
    "400 or 404 that names the parameter and what is allowed",
)
@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({}, 400, "model", "model: must be given"),
        ({"model": "whisper-1"}, 404, "model", "this server has one model, 'small'"),
        (
            {"prompt": "names"},
            400,
            "prompt",
            "prompt: this model was not trained on words that help to hear (option 'context' of a task)",
        ),
        ({"language": "xx"}, 400, "language", "task 'asr' has no prompts in 'xx', only in en, ja"),
        ({"temprature": "0"}, 400, "temprature", "nothing is ignored. Did you mean 'temperature'?"),
        ({"temperature": "3"}, 400, "temperature", "temperature: input should be less than or equal to 2"),
        ({"temperature": "nan"}, 400, "temperature", "temperature: input should be"),
        ({"temperature": "hot"}, 400, "temperature", "temperature: input should be a valid number"),
        (
            {"response_format": "xml"},
            400,
            "response_format",
            "'xml' is not supported; allowed: 'json'",
        ),
        ({"stream": "true", "response_format": "srt"}, 400, None, "stream: events carry text alone"),
        ({"chunking_strategy": "server_vad"}, 400, "chunking_strategy", "allowed: 'auto'"),
        ({"timestamp_granularities[]": "segment"}, 400, None, "in response_format verbose_json alone"),
        (
            {"timestamp_granularities[]": "word", "response_format": "verbose_json"},
            400,
            "timestamp_granularities[]",
            "CTC head (ctc, alignformer), and this run has none; allowed: segment",
        ),
        ({"include[]": "logprobs"}, 400, "include[]", "include[]: not supported here"),
        ({"model": ["small", "small"]}, 400, "model", "model: given 2 times"),
        ({"x" * 300: "1"}, 400, "x" * 60 + " ... (240 more characters)", "Supported: "),
    ],
)
def test_what_is_refused(url: str, fields: dict[str, Any], status: int, param: str | None, said: str) -> None:
    given = {"model": "small", **fields} if fields else {}
    got = httpx.post(f"{url}/v1/audio/transcriptions", files={"file": audio_file(noise(0.5))}, data=given)
    error = got.json()["error"]
    assert (got.status_code, error["param"]) == (status, param)
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.fault("Clients of the server: files and forms that are damaged", "400 that says what is wrong")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "file: the file is empty"),
        (b"text " * 100, "file: cannot be decoded"),
        (audio_file(noise(1.0))[:9000], "file: breaks off"),
        (audio_file(noise(0.01)), "file: 10.0 ms long; the shortest is 25 ms"),
    ],
)
def test_files_that_cannot_be_heard(url: str, content: bytes, said: str) -> None:
    got = httpx.post(
        f"{url}/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data={"model": "small"}
    )
    assert got.status_code == 400
    assert got.json()["error"]["message"].startswith(said)


@pytest.mark.fault("Clients of the server: files and forms that are damaged", "400 that says what is wrong")
def test_forms_that_cannot_be_read(url: str) -> None:
    def post(**given: Any) -> tuple[int, str]:
        got = httpx.post(f"{url}/v1/audio/transcriptions", **given)
        return got.status_code, got.json()["error"]["message"]

    assert post(json={"model": "small"}) == (400, "expected a form (multipart/form-data) with a file")
    assert post(data={"model": "small"}) == (400, "expected a form (multipart/form-data) with a file")
    two = [("file", ("a", b"1")), ("file", ("b", b"1"))]
    assert post(files=two)[1].startswith("the form cannot be read: Too many files")
    assert post(files={"clip": b"1"}) == (400, "a file stands in another field than 'file'")
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert post(content=b"--y\r\n", headers=form)[0] == 400
    assert post(content=b"", headers={"content-type": "multipart/form-data"})[0] == 400
    empty = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nsmall\r\n--x--\r\n'
    assert post(content=empty, headers=form) == (
        400,
        "file: must be given, as a file (multipart/form-data)",
    )


def test_translations(run: RunFolder, serve: Callable[..., Any], service: Service, url: str) -> None:
    """A run that was trained on it translates; one that was not says so."""
    (evaluation,) = run.recipe.evaluate.values()
    into = {
        language: replace(
            evaluation, task=Chosen(kind="task", name="translate", config=Translate.Config(target=language))
        )
        for language in ("de", "en")
    }
    recipe = replace(run.recipe, evaluate={**run.recipe.evaluate, **into})
    translating = scatter(Service(RunFolder(run.path, recipe), device=torch.device("cpu")))
    form: dict[str, Any] = {"files": {"file": audio_file(chord(1.0, 5))}, "data": {"model": "small"}}
    clip = torch.from_numpy(decode(audio_file(chord(1.0, 5)), sample_rate=16000, name="clip"))
    question = Translate(Translate.Config(target="en")).question(None)
    with serve(translating) as there:
        got = httpx.post(f"{there}/v1/audio/translations", **form).json()
        form["data"]["response_format"] = "verbose_json"
        words = httpx.post(f"{there}/v1/audio/translations", **form).json()
        form["data"]["language"] = "ja"
        refused = httpx.post(f"{there}/v1/audio/translations", **form)
        (wanted,) = translating.engine.engine.answer([Prompt("", question, [clip])], translating.generation)
    assert got["text"] == words["text"] == wanted.spoken != ""
    assert (words["task"], words["language"]) == ("translate", "en")
    assert refused.status_code == 400
    assert "language: not supported here" in refused.json()["error"]["message"]
    refused = httpx.post(f"{url}/v1/audio/translations", **form)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_trained")
    assert "this model was not trained on translation into English" in refused.json()["error"]["message"]


@pytest.mark.parametrize("route", ["transcriptions", "translations"])
def test_a_prompt_stands_where_training_puts_the_context(
    run: RunFolder, serve: Callable[..., Any], route: str
) -> None:
    (evaluation,) = run.recipe.evaluate.values()
    name = {"transcriptions": "asr", "translations": "translate"}[route]
    task = registry.load("task", name)(registry.load("task", name).Config(context="names"))
    chosen = Chosen(kind="task", name=name, config=task.config)
    recipe = replace(run.recipe, evaluate={"held_out": replace(evaluation, task=chosen)})
    service = Service(RunFolder(run.path, recipe), device=torch.device("cpu"), cut="quietest")
    service.engine = service.asker.engine = engine = ByHand(service.engine.engine)  # type: ignore[assignment]
    record = {"text": "x", "translation": "y", "language": "ja", "names": ["Ezo", "岩木山"]}
    asked = []
    with serve(service) as url, ThreadPoolExecutor() as threads:
        for number, prompt in enumerate(["Ezo\n岩木山", " ", None]):
            form = {"model": "small"} if prompt is None else {"model": "small", "prompt": prompt}
            files = {"file": audio_file(noise(0.5))}
            got = threads.submit(httpx.post, f"{url}/v1/audio/{route}", files=files, data=form, timeout=60)
            answer(engine.reply(number), "z")
            assert got.result().json()["text"] == "z"
            asked.append(engine.reply(number).prompt.conversation)
    trained = task.conversation(record, ["0"], None).prompt()
    render = service.engine.engine.model.llm.render
    assert render(asked[0], generate=True).ids == render(trained, generate=True).ids
    assert asked[1] == asked[2] == task.question(None)


def test_of_a_transcript_and_its_translation_the_translation_is_told(
    run: RunFolder, serve: Callable[..., Any]
) -> None:
    """Where the mark between the two never comes, there is no translation."""
    (evaluation,) = run.recipe.evaluate.values()
    recipe = replace(
        run.recipe, evaluate={"held_out": replace(evaluation, task=Chosen.of("task", "translate_cot"))}
    )
    service = Service(RunFolder(run.path, recipe), device=torch.device("cpu"), cut="quietest")
    service.engine = service.asker.engine = engine = ByHand(service.engine.engine)  # type: ignore[assignment]
    form: dict[str, Any] = {"files": {"file": audio_file(noise(0.5))}, "data": {"model": "small"}}
    with serve(service) as url, ThreadPoolExecutor() as threads:
        for number, said in enumerate(["こ。 <sep> Hello.", "こ。"]):
            got = threads.submit(httpx.post, f"{url}/v1/audio/translations", timeout=60, **form)
            answer(engine.reply(number), *said)
            assert got.result().json()["text"] == ("Hello." if number == 0 else "")


def test_a_model_that_is_asked_nothing_cannot_be_told_the_language(run: RunFolder) -> None:
    (evaluation,) = run.recipe.evaluate.values()
    silent = {"held_out": replace(evaluation, task=Chosen.of("task", "transcribe"))}
    service = Service(RunFolder(run.path, replace(run.recipe, evaluate=silent)), device=torch.device("cpu"))
    assert service.transcription(None).clips() == ["0"]
    with pytest.raises(RefusalError, match="language: this model hears the language by itself"):
        service.transcription("ja")


def test_a_run_of_conversations_has_no_transcriptions(run: RunFolder) -> None:
    chat = Chosen.of("task", "chat")
    stage = run.recipe.stages["asr"]
    data = {name: replace(dataset, task=chat) for name, dataset in stage.data.items()}
    recipe = replace(run.recipe, stages={"asr": replace(stage, data=data)}, evaluate={})
    service = Service(RunFolder(run.path, recipe), device=torch.device("cpu"))
    service.warm_up()
    with pytest.raises(RefusalError, match="this model was not trained on transcription; ask it by POST"):
        service.transcription(None)
