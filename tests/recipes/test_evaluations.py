"""Every shipped file of evaluations, on small copies of the published sets: they are packed and scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kikimimi import JudgePrompt, JudgeReply, encode_audio
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import RequestError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.evaluation.record import open_changed
from kikimimi.recipe import load_evaluations, load_recipe
from kikimimi.recipe.resolve import shipped_evaluations, shipped_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train
from kikimimi_judges.openai import OpenAIJudge

TONE = encode_audio(
    (0.3 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)).astype(np.float32),
    16_000,
    kind="WAV",
    subtype="PCM_16",
)
FLEURS = {"num_samples": 8000, "path": "a.wav", "lang_id": 41, "language": "Japanese", "lang_group_id": 6}
LIBRISPEECH = {"file": "1-2-0000.flac", "chapter_id": 2}


def parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    clips = [{"audio": {"bytes": TONE, "path": f"{number}.wav"}} for number in range(len(rows))]
    pq.write_table(
        pa.Table.from_pylist([{**clip, **row} for clip, row in zip(clips, rows, strict=True)]), path
    )


def packed(source: Path, out: str, layout: str, options: list[str]) -> list[dict[str, Any]]:
    report = pack(PackSource.open(source, layout, options), Path(out), prefix="test")
    assert report.dropped() == {}
    shards = Shards("packed", report.pattern)
    return [shards.read(row).json for row in range(len(shards))]


def japanese(hub: Path) -> dict[str, list[dict[str, Any]]]:
    texts = ("東京の天気は晴れです。", "はい")
    found = {}
    for name, fields, out in (
        ("ja_asr.common_voice_8_0", "cv8-ja", "data/common-voice-8-ja"),
        ("ja_asr.jsut_basic5000", "jsut-basic5000", "data/jsut-basic5000"),
        ("ja_asr.reazonspeech_test", "reazonspeech-test", "data/reazonspeech-test"),
    ):
        parquet(hub / name / "data/test-00000-of-00001.parquet", [{"transcription": text} for text in texts])
        options = [f"fields={fields}", "split=test"]
        found[fields] = packed(hub / name, out, "hugging_face", options)
    rows = [
        {"id": 7, **FLEURS, "transcription": text, "raw_transcription": f"「{text}」", "gender": number}
        for number, text in enumerate(texts)
    ]
    parquet(hub / "fleurs/ja_jp/test/0000.parquet", rows)
    options = ["fields=fleurs-ja"]
    found["fleurs-ja"] = packed(hub / "fleurs/ja_jp/test", "data/fleurs-ja", "hugging_face", options)
    assert found["fleurs-ja"][1]["meta"] == {
        "source": "fleurs",
        "sentence": 7,
        "raw": "「はい」",
        "gender": 1,
        "license": "CC-BY-4.0",
    }
    return found


def english(hub: Path) -> dict[str, list[dict[str, Any]]]:
    rows = [
        {**LIBRISPEECH, "text": text, "speaker_id": speaker, "id": f"{speaker}-2-0000"}
        for speaker, text in ((1, "MISTER SMITH"), (3, "YES"))
    ]
    parquet(hub / "librispeech_asr/clean/test/0000.parquet", rows)
    folder = hub / "LibriSpeech/test-other/1/2"
    folder.mkdir(parents=True)
    (folder / "1-2.trans.txt").write_text("1-2-0000 YES\n")
    (folder / "1-2-0000.flac").write_bytes(TONE)
    clean = hub / "librispeech_asr/clean/test"
    out = "data/librispeech-test"
    return {
        "clean": packed(clean, f"{out}-clean", "hugging_face", ["fields=librispeech"]),
        "other": packed(hub / "LibriSpeech", f"{out}-other", "librispeech", ["split=test-other"]),
    }


def adu_bench(hub: Path) -> dict[str, list[dict[str, Any]]]:
    questions = {
        "Multilingual": ("japanese", "korean"),
        "General": ("helpful_question",),
        "Skill": ("law",),
        "Ambiguity": ("homophones", "repetition", "pause", "intonation"),
    }
    for name in (f"{kind}/{subset}" for kind, subsets in questions.items() for subset in subsets):
        (hub / f"ADU-{name}").mkdir(parents=True)
        (hub / f"ADU-{name}/0.wav").write_bytes(TONE)
        line = {
            "question": f"{name}?",
            "answer": "yes",
            "source": "s",
            "category": "c",
            # Where the author's machine had it, but for one.
            "audio": f"ADU-{name}/0.wav" if "japanese" in name else f"/home/a/ADU-{name}/0.wav",
        }
        table = hub / f"input/ADU-{name}.jsonl"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(json.dumps(line) + "\n")
    return {
        out: packed(hub, f"data/adu-bench/{out}", "adu_bench", [f"subsets={patterns}"])
        for out, patterns in ADU.items()
    }


ADU = {
    "japanese": "[ADU-Multilingual/japanese]",
    "multilingual": "[ADU-Multilingual/*]",
    "general": "[ADU-General/*]",
    "skill": "[ADU-Skill/*]",
    "ambiguity-open": "[ADU-Ambiguity/homophones, ADU-Ambiguity/repetition]",
    "ambiguity-match": "[ADU-Ambiguity/pause, ADU-Ambiguity/intonation]",
}


OPEN = ("commoneval", "alpacaeval", "wildvoice")  # without a reference


def voicebench(hub: Path) -> dict[str, list[dict[str, Any]]]:
    card = "---\nconfigs:\n"
    for subset, splits in (("openbookqa", ["test"]), ("mmsu", ["law", "biology"]), ("sd-qa", ["aus", "usa"])):
        card += f"- config_name: {subset}\n  data_files:\n"
        for split in splits:
            row = {"prompt": f"{split}: A, rain. B, sun.", "reference": "B"}
            parquet(hub / f"voicebench/{subset}/{split}-00000-of-00001.parquet", [row, row])
            card += f"  - {{split: {split}, path: {subset}/{split}-*}}\n"
    for subset in OPEN:
        card += f"- config_name: {subset}\n  data_files: [{{split: test, path: {subset}/test-*}}]\n"
        parquet(hub / f"voicebench/{subset}/test-00000-of-00001.parquet", [{"prompt": "Why?"}] * 2)
    (hub / "voicebench/README.md").write_text(f"{card}---\n")
    wanted = {"openbookqa": "test", "mmsu": "law+biology", "sd-qa": "aus+usa", **dict.fromkeys(OPEN, "test")}
    return {
        subset: packed(
            hub / "voicebench",
            f"data/voicebench/{subset}",
            "hugging_face",
            [f"fields=voicebench{'-open' * (subset in OPEN)}", f"subset={subset}", f"split={split}"],
        )
        for subset, split in wanted.items()
    }


MAKE = {"japanese-asr": japanese, "english-asr": english, "adu-bench": adu_bench, "voicebench": voicebench}


def test_every_file_is_here() -> None:
    assert set(shipped_evaluations()) == set(MAKE)
    for path in shipped_evaluations().values():
        assert path.read_text(encoding="utf-8").startswith("# ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"Did you mean 'japanese-asr'\? Evaluations that are shipped: adu-"
    ):
        load_evaluations("japanese-asl")
    file = tmp_path / "mine.yaml"
    file.write_text("evaluate:\n  a: {shards: a.tar, task: asr, metrik: cer}\n")
    with pytest.raises(RequestError, match=r"evaluate\.a\.metrik: .* Did you mean 'metric'\?"):
        load_evaluations(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny_recipe(load_recipe(shipped_recipe("quickstart")), write_shard(folder / "clips", 6))
    made = RunFolder.create(folder / "run", recipe)
    train(made)
    return made


@pytest.mark.parametrize("name", MAKE)
def test_from_a_published_layout_to_a_score(
    name: str, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    asked: list[JudgePrompt] = []

    def ask(judge: OpenAIJudge, prompts: Sequence[JudgePrompt]) -> Any:
        asked.extend(prompts)
        for number, prompt in enumerate(prompts):
            yield number, JudgeReply(text=f'{{"score": {int("from 1 to 5" in prompt.text)}}}')

    monkeypatch.setattr(OpenAIJudge, "ask", ask)
    monkeypatch.setattr(OpenAIJudge, "ready", lambda judge: None)
    records = MAKE[name](tmp_path / "hub")
    wanted = load_evaluations(name)
    short = [f"evaluate.{one}.generate.max_new_tokens=2" for one in wanted]
    folder, named = open_changed(run.path, short, Path(name))
    assert named == list(wanted)
    scores = evaluate(folder, named)
    system = run.recipe.name
    if name.endswith("-asr"):
        assert [found[system].count for found in scores.values()] == list(map(len, records.values()))
        return
    assert all(len(found) == 2 for found in scores.values())  # heard, and in writing
    assert [found[system].count for found in scores.values()] == list(map(len, records.values()))
    if name == "adu-bench":
        first = records["japanese"][0]
        assert first["messages"][0]["content"][0]["text"] == "Multilingual/japanese?"
        assert first["meta"]["language"] == "ja"
        assert [one["meta"]["subset"] for one in records["ambiguity-match"]] == ["intonation", "pause"]
        assert {one["meta"]["language"] for one in records["multilingual"]} == {"ja", "ko"}
        assert 'query: "Multilingual/japanese?"' in asked[0].text
        assert sum("matches the reference in full" in prompt.text for prompt in asked) == 4
    else:
        assert [one["meta"]["split"] for one in records["mmsu"]] == ["law", "law", "biology", "biology"]
        assert len({prompt.vote for prompt in asked}) == 3
