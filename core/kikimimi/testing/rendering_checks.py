"""Checks of how an LLM renders a conversation: slots, loss mask, and text that looks like control tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any

from kikimimi.contracts.component import Rendered
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.testing.contract import expect
from kikimimi.testing.llm_checks import LLMSubject

KNOWN_CONTROLS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|end|>",
    "<|return|>",
    "<|user|>",
    "<|assistant|>",
    "<|eot_id|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
)
"""How control tokens are spelled in the field; those of the LLM's own tokenizer are added."""

_QUESTION = Message("user", (TextPart("one"), AudioPart("0.flac"), TextPart("two"), AudioPart("1.flac")))
_ANSWER = Message("assistant", (TextPart("an answer"),))
_TALK = Conversation(
    (
        _QUESTION,
        _ANSWER,
        Message("user", (AudioPart("2.flac"), TextPart("three"))),
        Message("assistant", (TextPart("いいえ"),)),
    )
)


def slots_are_the_clips(subject: LLMSubject) -> None:
    """There is one slot for each clip, in order, between the words that stand around it."""
    llm = subject.build()
    rendered = llm.render(_TALK)
    ids, slots = rendered.ids, rendered.slots
    expect(
        len(rendered.loss) == len(ids),
        f"expected {len(ids)} values in the loss mask, found {len(rendered.loss)}",
    )
    expect(len(slots) == 3, f"3 clips: expected 3 slots, found {len(slots)}")
    expect(slots == sorted(set(slots)), f"expected ascending slots, found {slots}")
    expect(slots[-1] < len(ids) and slots[0] >= 0, f"expected slots within the {len(ids)} ids, found {slots}")
    in_loss = [slot for slot in slots if rendered.loss[slot]]
    expect(not in_loss, f"expected no loss at slots, found it at {in_loss}")
    edges = [-1, *slots, len(ids)]
    pieces = [llm.decode(ids[a + 1 : b]) for a, b in pairwise(edges)]
    for piece, (wanted, unwanted) in zip(
        pieces, (("one", "two"), ("two", "one"), ("an answer", "いいえ"), ("three", "two")), strict=True
    ):
        expect(
            wanted in piece and unwanted not in piece,
            f"expected {wanted!r} and not {unwanted!r} between two slots, found {piece!r}",
        )


def loss_covers_the_answers(subject: LLMSubject) -> None:
    """The loss is on the assistant's words and on the control token that ends the turn, and nowhere else."""
    llm = subject.build()
    rendered = llm.render(_TALK)
    # An encoder-decoder reads earlier answers as a part of the prompt.
    answers = ["an answer", "いいえ"] if llm.causal else ["いいえ"]
    runs = _runs(rendered)
    expect(
        len(runs) == len(answers), f"{len(answers)} answers: expected as many runs of loss, found {len(runs)}"
    )
    anchor = _ordinary(llm)
    for run, answer in zip(runs, answers, strict=True):
        text = llm.decode(run).strip()
        expect(text == answer, f"expected the loss on {answer!r}, found it on {text!r}")
        expect(
            any(_is_control(llm, token, anchor) for token in run),
            f"expected the loss on the control token that ends the turn too, found it on {answer!r} alone",
        )


def spans_tell_who_says_what(subject: LLMSubject) -> None:
    """Spans, where the LLM gives any, cover the ids in order and agree with words, slots and loss."""
    llm = subject.build()
    rendered = llm.render(_TALK)
    ids, loss, spans = rendered.ids, rendered.loss, rendered.spans
    if not spans:
        return
    edges = [(span.start, span.end) for span in spans]
    expect(
        all(start < end for start, end in edges)
        and [0, *(end for _, end in edges)] == [*(start for start, _ in edges), len(ids)],
        f"spans: expected them to cover the {len(ids)} ids one after the other, found {edges}",
    )
    slots = [(slot, slot + 1) for slot in rendered.slots]
    audio = [edge for edge, span in zip(edges, spans, strict=True) if span.kind == "audio"]
    expect(audio == slots, f"spans: expected those of audio at the slots, {slots}, found {audio}")
    said = [
        (span.role, "audio" if span.kind == "audio" else llm.decode(ids[span.start : span.end]).strip())
        for span in spans
        if span.kind != "template"
    ]
    wanted = [
        (message.role, part.text if isinstance(part, TextPart) else "audio")
        for message in _TALK.messages
        for part in message.parts
    ]
    expect(said == wanted, f"spans: expected the roles and words {wanted}, found {said}")
    strange = [
        (span.role, span.start)
        for span in spans
        if span.kind != "template" and span.role != "assistant" and any(loss[span.start : span.end])
    ]
    expect(not strange, f"spans: expected the loss on what the assistant says, found it on {strange}")
    answers = [span for span in spans if (span.kind, span.role) == ("text", "assistant")]
    # An encoder-decoder reads earlier answers as a part of the prompt.
    missed = [a.start for a in (answers if llm.causal else answers[-1:]) if not all(loss[a.start : a.end])]
    expect(not missed, f"spans: expected the loss on all of each answer, found it missing from {missed}")


def training_continues_the_prompt(subject: LLMSubject) -> None:
    """The rendering that generation starts from is what comes before the first token with a loss."""
    llm = subject.build()
    asked = llm.render(Conversation((_QUESTION,)), generate=True)
    answered = llm.render(Conversation((_QUESTION, _ANSWER)))
    expect(not any(asked.loss), "expected no loss in a prompt, found some")
    start = answered.loss.index(True)
    expect(
        answered.ids[:start] == asked.ids and answered.slots == asked.slots,
        f"expected training to predict the answer from the prompt that generation gets, {asked.ids}, "
        f"found {answered.ids[:start]} before it",
    )


def text_is_never_control(subject: LLMSubject) -> None:
    """A control token that a user or an answer spells out stays ordinary text, or is refused."""
    llm = subject.build()
    anchor = _ordinary(llm)
    plain = _count_controls(llm, _said("a", "b"), anchor)
    for spelled in dict.fromkeys([*KNOWN_CONTROLS, *_own_controls(llm)]):
        for who, talk in {
            "user": _said(f"a{spelled}b", "b"),
            "assistant": _said("a", f"a{spelled}b"),
        }.items():
            try:
                found = _count_controls(llm, talk, anchor)
            except ValueError:
                continue  # refused, which is safe
            expect(
                found == plain,
                f"{spelled!r} in the text of the {who}: expected {plain} control tokens, as without it, "
                f"found {found}",
            )


def _said(question: str, answer: str) -> Conversation:
    return Conversation((Message("user", (TextPart(question),)), Message("assistant", (TextPart(answer),))))


def _runs(rendered: Rendered) -> list[list[int]]:
    pairs = zip(rendered.ids, rendered.loss, strict=True)
    return [[token for token, _ in run] for wanted, run in groupby(pairs, key=lambda pair: pair[1]) if wanted]


def _ordinary(llm: Any) -> list[int]:
    """Return ids of ordinary text: the start of an answer's loss that is its words and no more."""
    runs = _runs(llm.render(_said("a", "ab")))
    expect(bool(runs), "expected a loss on the answer 'ab', found none")
    for length in range(1, len(runs[0]) + 1):
        if llm.decode(runs[0][:length]).strip() == "ab":
            return runs[0][:length]
    expect(False, f"expected the loss on the answer 'ab', found it on {llm.decode(runs[0])!r}")
    return []


def _is_control(llm: Any, token: int, anchor: list[int]) -> bool:
    # Decoding leaves out control tokens; a token of white space would show between two words.
    return bool(llm.decode([*anchor, token, *anchor]) == llm.decode([*anchor, *anchor]))


def _count_controls(llm: Any, talk: Conversation, anchor: list[int]) -> int:
    return sum(_is_control(llm, token, anchor) for token in llm.render(talk).ids)


def _own_controls(llm: Any) -> Iterator[str]:
    """Yield the special tokens of transformers' tokenizers that the LLM or one of its attributes holds."""
    held = list(vars(llm).values())
    for value in [*held, *(inner for outer in held for inner in getattr(outer, "__dict__", {}).values())]:
        tokens = getattr(value, "all_special_tokens", None)
        if isinstance(tokens, list):
            yield from tokens
