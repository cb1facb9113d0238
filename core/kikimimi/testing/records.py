"""Records for tests: a labelled clip with every field that a built-in task reads, and a conversation."""

from __future__ import annotations

from random import Random
from typing import Any

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
        "meta": _meta(),
    }


def conversation(rng: Random, *, said: bool) -> dict[str, Any]:
    """Return the record of a conversation: a question about the clip, an answer, and a rejected one.

    Args:
        rng: Chooses what is said.
        said: Whether the audio part holds its transcript.
    """
    label = rng.choice(list(LABELS))
    audio = {"type": "audio", "audio": CLIP, **({"text": label} if said else {})}
    asked = [audio, {"type": "text", "text": QUESTION}]
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": label}],
        "rejected": rng.choice([other for other in LABELS if other != label]),
        "meta": _meta(),
    }


def _meta() -> dict[str, Any]:
    return {"source": "synthetic tones", "license": "CC0-1.0"}
