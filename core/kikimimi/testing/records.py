"""Records for tests: a labelled clip with every field that a task reads, a conversation, shards of them."""

import json
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.options import PositiveInt, checked
from kikimimi.contracts.task import Task
from kikimimi.files.writing import whole_file

_SAMPLE_RATE = 16000

CLIP = "0.flac"
"""The one clip of each record."""
LABELS = {
    "おはよう": {"en": "Good morning", "de": "Guten Morgen", "zh": "早上好"},
    "こんにちは": {"en": "Hello", "de": "Guten Tag", "zh": "你好"},
    "こんばんは": {"en": "Good evening", "de": "Guten Abend", "zh": "晚上好"},
    "ありがとう": {"en": "Thank you", "de": "Danke", "zh": "谢谢"},
    "さようなら": {"en": "Goodbye", "de": "Auf Wiedersehen", "zh": "再见"},
    "はい": {"en": "Yes", "de": "Ja", "zh": "是"},
    "いいえ": {"en": "No", "de": "Nein", "zh": "不"},
    "おやすみ": {"en": "Good night", "de": "Gute Nacht", "zh": "晚安"},
}
"""What is said, and its translations."""
QUESTION = "何と言いましたか。"
_EMOTIONS = ("喜び", "悲しみ", "怒り", "平静")
_SPEAKERS = ("佐藤", "鈴木", "高橋")


def labelled_clip(rng: Random) -> dict[str, Any]:
    """Return the record of a labelled clip: what is said, and all that tasks may ask about it."""
    label = rng.choice(list(LABELS))
    follows = rng.choice(list(LABELS))
    return {
        "text": label,
        "language": "ja",
        "language_name": "Japanese",
        "translation": {"ja": label, **LABELS[label]},
        "captions": [f"声が「{label}」と言う。", "短い音がする。"],
        "question": QUESTION,
        "answer": f"「{label}」と言いました。",
        "segments": [
            {"audio": CLIP, "text": label, "start": 0.0, "end": 0.25},
            {"audio": CLIP, "text": follows, "start": 0.25, "end": 0.5},
        ],
        "emotion": rng.choice(_EMOTIONS),
        "speakers": [rng.choice(_SPEAKERS)],
        "keywords": [label, "挨拶"],
        "events": ["音", "沈黙"],
        "title": f"{label}の歌",
        "scene": "公園",
        "vocal_sound": "笑い",
        "meta": _meta(),
    }


def conversation(rng: Random, *, said: bool) -> dict[str, Any]:
    """Return the record of a conversation: a question about the clip, an answer, and a rejected one."""
    label = rng.choice(list(LABELS))
    audio = {"type": "audio", "audio": CLIP, **({"text": label} if said else {})}
    asked = [audio, {"type": "text", "text": QUESTION}]
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": label}],
        "rejected": rng.choice([other for other in LABELS if other != label]),
        "meta": _meta(),
    }


def refusal(task: Task, record: dict[str, Any]) -> str | None:
    """Return why a task does not take a record with the one clip, or None where it does."""
    try:
        task.conversation(record, [CLIP], None)
    except ValueError as error:
        return str(error)
    return None


def _meta() -> dict[str, Any]:
    return {"source": "synthetic tones", "license": "CC0-1.0"}


@checked
def write_shard(
    folder: Path,
    count: PositiveInt = 8,
    *,
    seed: int = 0,
    prefix: str = "clips",
    form: Literal["clips", "conversations"] = "clips",
) -> str:
    """Write one shard of tones of 0.3 to 1.5 s with short Japanese labels, and its index.

    Args:
        folder: Where to; made if it is not there.
        count: Records.
        seed: Decides lengths, pitches and labels.
        prefix: Start of the shard's name.
        form: What a record is: ``clips``, a labelled clip with the fields of every built-in task but `chat`;
            or ``conversations``, a question about the clip, an answer, and a rejected one, as the task `chat`
            takes it; every second clip with its transcript.

    Returns:
        The shard's path, as `shards` of a recipe takes it.

    Raises:
        OptionsError: `count` is below 1.
    """
    # Imported here, as the checks read records and need no data.
    from webdataset.writer import TarWriter

    from kikimimi.data.audio import encode_flac
    from kikimimi.data.shards.indexing import build_index

    rng = Random(seed)
    path = folder / f"{prefix}-000000.tar"
    with whole_file(path) as unfinished, TarWriter(str(unfinished), mtime=0) as writer:
        for number in range(count):
            clips = form == "clips"
            record = labelled_clip(rng) if clips else conversation(rng, said=number % 2 == 0)
            writer.write(
                {
                    "__key__": f"{prefix}-{number:04d}",
                    "json": json.dumps(record, ensure_ascii=False).encode(),
                    CLIP: encode_flac(_tone(rng), _SAMPLE_RATE),
                }
            )
    build_index(path)
    return str(path)


def _tone(rng: Random) -> NDArray[np.float32]:
    time = np.arange(round(rng.uniform(0.3, 1.5) * _SAMPLE_RATE)) / _SAMPLE_RATE
    pitch = rng.uniform(110, 880)
    return (0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def any_tone(seconds: float, kind: str) -> bytes:
    """Return an audio file of a tone at 16 kHz: ``WAV``, ``FLAC``, ``MP3`` or ``OGG`` (Opus)."""
    from kikimimi.data.audio import encode_audio

    time = np.arange(round(seconds * _SAMPLE_RATE)) / _SAMPLE_RATE
    samples = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    subtype = {"MP3": "MPEG_LAYER_III", "OGG": "OPUS"}.get(kind, "PCM_16")
    return encode_audio(samples, _SAMPLE_RATE, kind=kind, subtype=subtype)
