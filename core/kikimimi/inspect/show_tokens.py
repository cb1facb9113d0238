"""The tokens of a conversation, and the text that they are, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kikimimi.contracts.batch import Batch
from kikimimi.contracts.conversation import Conversation, Role, TextPart
from kikimimi.contracts.vocabulary import Vocabulary


@dataclass(frozen=True)
class Token:
    """A token that the LLM reads, or the slot of a clip.

    Attributes:
        kind: ``text``, ``control`` (it stands for no text), or ``audio``.
        id: In the vocabulary; None for a slot.
        target: Whether the LLM learns to write it.
        text: How it is written; of a slot, the clip, its length and its audio tokens.
    """

    kind: Literal["text", "control", "audio"]
    id: int | None
    target: bool
    text: str


@dataclass(frozen=True)
class Piece:
    """A stretch of what the LLM reads.

    Attributes:
        kind: As of a `Token`.
        role: Who says it, as far as that can be told; None for what the chat template adds.
        target: Whether the LLM learns to write it.
        text: How it is written.
    """

    kind: Literal["text", "control", "audio"]
    role: Role | None
    target: bool
    text: str


def tokens_of(batch: Batch, clips: Sequence[str], vocabulary: Vocabulary) -> tuple[Token, ...]:
    """Return the tokens of a micro-batch of one conversation.

    Args:
        batch: As training reads it.
        clips: How the clips are written, in order.
        vocabulary: Of the LLM.
    """
    control, slots = vocabulary.control, dict(zip(batch.slots.tolist(), clips, strict=True))
    tokens = []
    for place, (number, loss) in enumerate(zip(batch.ids.tolist(), batch.loss.tolist(), strict=True)):
        # Nothing predicts the first token, and a slot is not a token.
        target = loss and place > 0
        if place in slots:
            tokens.append(Token("audio", None, False, slots[place]))
        elif number in control:
            tokens.append(Token("control", number, target, control[number]))
        else:
            text = spell(vocabulary, [number])
            tokens.append(Token("text" if text else "control", number, target, text or f"<{number}>"))
    return tuple(tokens)


def spell(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Return the text of ids in the middle of a text: many tokenizers drop the blank before a first word."""
    once, twice = vocabulary.decode(ids[:1]), vocabulary.decode([ids[0], *ids])
    return twice[len(once) :] if twice.startswith(once) else vocabulary.decode(ids)


def pieces_of(tokens: Sequence[Token], conversation: Conversation, vocabulary: Vocabulary) -> Iterator[Piece]:
    """Yield the tokens as text, cut where kind, target or speaker change."""
    yield from _by_role(list(_pieces(tokens, vocabulary)), conversation)


def _pieces(tokens: Sequence[Token], vocabulary: Vocabulary) -> Iterator[Piece]:
    """Put neighbouring tokens of one kind together: a character may take several."""
    run: list[int] = []
    target = False
    for token in tokens:
        if run and (token.kind != "text" or token.target != target):
            yield Piece("text", None, target, spell(vocabulary, run))
            run = []
        if token.kind == "text":
            assert token.id is not None
            run.append(token.id)
            target = token.target
        else:
            yield Piece(token.kind, None, token.target, token.text)
    if run:
        yield Piece("text", None, target, spell(vocabulary, run))


def _by_role(pieces: Sequence[Piece], conversation: Conversation) -> Iterator[Piece]:
    """Find the turns' texts in the pieces, one after the other, and cut the pieces at their ends."""
    wanted = [
        (message.role, text)
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, TextPart) and (text := part.text.strip())
    ]
    for number, piece in enumerate(pieces):
        rest = piece.text if piece.kind == "text" else ""
        if not rest:
            yield piece
        while rest:
            # A text that the tokenizer cannot spell is nowhere to be found.
            while wanted and not any(wanted[0][1] in text for text in (rest, *_texts(pieces[number + 1 :]))):
                wanted.pop(0)
            start = rest.find(wanted[0][1]) if wanted else -1
            if start < 0:
                yield replace(piece, text=rest)
                break
            role, text = wanted.pop(0)
            if start:
                yield replace(piece, text=rest[:start])
            yield replace(piece, role=role, text=text)
            rest = rest[start + len(text) :]


def _texts(pieces: Sequence[Piece]) -> Iterator[str]:
    return (piece.text for piece in pieces if piece.kind == "text")
