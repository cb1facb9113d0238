"""Conversations that are made of a grammar's instructions, as manifests that pack into shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.contracts import registry
from kikimimi.contracts.conversation import Conversation, TextPart, parse_conversation
from kikimimi.contracts.options import OptionsError
from kikimimi.contracts.voice import Voice, VoiceConfig
from kikimimi.data.packing.pack import pack
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import RequestError
from kikimimi.synth import synth as module
from kikimimi.synth.synth import DialogueSizes, SynthReport, synth

MANIFESTS = ["instructions", "held_out_instructions", "preferences", "texts"]


class Hummer(Voice):
    """Hums for as long as the text is."""

    Config = VoiceConfig
    sample_rate = 16_000
    language = "ja"
    spoken: tuple[str, ...] = ()

    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> Any:
        Hummer.spoken += (text,)
        return (0.3 * np.sin(np.arange(1600 * len(text)) / 20)).astype(np.float32)


@pytest.fixture(autouse=True)
def _hummer(monkeypatch: pytest.MonkeyPatch) -> None:
    Hummer.spoken = ()
    module._voice.cache_clear()
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Hummer if name == "hummer" else load(kind, name))


def make(folder: Path, held_out: int = 4, **sizes: int) -> SynthReport:
    return synth(
        "ja_dialogue",
        folder,
        count=5,
        held_out=held_out,
        dialogue=DialogueSizes(**sizes),
        voice="hummer",
        workers=1,
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def conversations(path: Path) -> list[Conversation]:
    return [parse_conversation(line) for line in read(path)]


def asked(conversation: Conversation) -> str:
    return "".join(part.text or "" for part in conversation.messages[0].parts)


def test_what_the_manifests_hold(tmp_path: Path) -> None:
    report = make(tmp_path, instructions=6, preferences=3, texts=20)
    assert [path.stem for path in report.dialogue] == MANIFESTS
    assert (report.clips, report.kept) == (5 + 4 + 6 + 4 + 3, 0)
    assert len(Hummer.spoken) == report.clips
    assert report.summary().endswith(
        f"{tmp_path / 'texts.jsonl'}; held-out characters that training lacks: {report.unseen}"
    )
    instructions, held_out, preferences, texts = map(conversations, report.dialogue)
    assert [len(part) for part in (instructions, held_out, preferences, texts)] == [6, 4, 3, 20]
    assert all(len(c.clips()) == 1 and c.transcripts() == [asked(c)] for c in instructions + held_out)
    assert all(
        (tmp_path / clip).is_file() for c in [*instructions, *held_out, *preferences] for clip in c.clips()
    )
    assert all(c.rejected is None for c in instructions + texts)
    assert all(c.rejected and c.rejected != c.reference() for c in held_out + preferences)
    # Nothing that is held out is in training, in speech or in text, nor is a request in two spoken parts.
    requests = [{asked(c) for c in part} for part in (instructions, preferences, held_out)]
    assert len(set.union(*requests)) == 13
    copies = [c for c in texts if len(c.messages[0].parts) == 2]
    assert len(copies) == 10
    assert all(asked(c) == c.reference() + "そのまま書いてください。" for c in copies)
    plain = [c for c in texts if c not in copies]
    assert not {asked(c) for c in plain} & requests[2]
    sentences = (tmp_path / "held_out.csv").read_text(encoding="utf-8")
    assert not any(c.reference() in sentences for c in copies)
    assert all(isinstance(part, TextPart) for c in texts for m in c.messages for part in m.parts)
    line = read(report.dialogue[0])[0]
    assert (line["language"], line["voice"]) == ("ja", "hummer")
    assert {"speed", "semitones"} <= set(line)


def test_it_goes_on_and_is_the_same(tmp_path: Path) -> None:
    first = make(tmp_path, instructions=6, preferences=3, texts=20)
    before = [path.read_bytes() for path in first.dialogue]
    clip = next((tmp_path / "clips").iterdir())
    clip.unlink()
    again = make(tmp_path, instructions=6, preferences=3, texts=20)
    assert again.kept == again.clips - 1
    assert [path.read_bytes() for path in again.dialogue] == before
    assert len(Hummer.spoken) == first.clips + 1


def test_parts_that_are_not_asked_for_are_not_written(tmp_path: Path) -> None:
    report = make(tmp_path, held_out=0, instructions=2)
    assert [path.stem for path in report.dialogue] == ["instructions"]
    assert not (tmp_path / "texts.jsonl").exists()


def test_sentences_do_not_depend_on_a_few_conversations(tmp_path: Path) -> None:
    synth("ja_dialogue", tmp_path / "a", count=5, held_out=4, voice="hummer", workers=1)
    make(tmp_path / "b", instructions=2, texts=4)
    for name in ("train.csv", "held_out.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_they_pack_into_shards(tmp_path: Path) -> None:
    report = make(tmp_path, instructions=3, preferences=2, texts=6)
    counts = {}
    for manifest in report.dialogue:
        packed = pack(manifest, tmp_path / manifest.stem)
        assert not packed.dropped()
        counts[manifest.stem] = packed.records
        records = Shards(manifest.stem, str(tmp_path / manifest.stem / "*.tar"))
        assert len(records) == packed.records
        record = records.read(0)
        read_back = parse_conversation(record.json)
        assert read_back.clips() == list(record.audio)
        assert read_back.reference() == conversations(manifest)[0].reference()
        assert record.json["meta"]["language"] == "ja"
    assert counts == {"instructions": 3, "held_out_instructions": 4, "preferences": 2, "texts": 6}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"instructions": 0}, "instructions: must be at least 1, not 0"),
        ({"instructions": 1, "preferences": -1}, "preferences: must be at least 0, not -1"),
        ({"instructions": 1, "texts": -1}, "texts: must be at least 0, not -1"),
    ],
)
def test_refuses_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        DialogueSizes(**sizes)


def test_a_grammar_without_instructions(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="ja_small: has no instructions, and 3 are asked for"):
        synth(
            "ja_small",
            tmp_path,
            count=2,
            held_out=1,
            dialogue=DialogueSizes(instructions=2),
            voice="hummer",
            workers=1,
        )
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path) -> None:
    command = ["data", "synth", "ja_dialogue", "--out", str(tmp_path), "--count", "3", "--held-out", "2"]
    command += ["--voice", "hummer", "--workers", "1"]
    result = CliRunner().invoke(app, [*command, "--texts", "4"])
    assert isinstance(result.exception, RequestError)
    assert "stand beside instructions: give --instructions as well" in str(result.exception)
    result = CliRunner().invoke(app, [*command, "--instructions", "3", "--preferences", "2", "--texts", "4"])
    assert result.exit_code == 0, result.output
    assert sorted(path.stem for path in tmp_path.glob("*.jsonl")) == sorted(MANIFESTS)
