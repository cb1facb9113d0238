"""Records for tests: a labelled clip with every field that a built-in task reads, and a conversation."""

from __future__ import annotations

from random import Random
from typing import Any

CLIP = "0.flac"
"""The one clip of each record."""
LABELS = {
    "おはよう": "Good morning",
    "こんにちは": "Hello",
    "こんばんは": "Good evening",
    "ありがとう": "Thank you",
    "さようなら": "Goodbye",
    "はい": "Yes",
    "いいえ": "No",
    "おやすみ": "Good night",
}
"""What is said, and its translation into English."""
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
        "translation": {"ja": label, "en": LABELS[label]},
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
