"""Checks of LLMs: the forward pass, and how a conversation is rendered."""

import tempfile
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from kikimimi.contracts.component import LLM, LLMContext, Rendered
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.vocabulary import Vocabulary
from kikimimi.testing.subject import (
    ContractError,
    Subject,
    check_named,
    expect,
    expect_close,
    expect_type,
)

ASCII = "Hello, world 42."
JAPANESE = "今日はいい天気です。コーヒーを2杯"
KNOWN_CONTROLS = (
    *("<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|return|>", "<|user|>", "<|assistant|>"),
    *("<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<s>", "</s>", "[INST]", "[/INST]"),
)
"""How control tokens are spelled in the field; those of the LLM's own tokenizer are added."""

_QUESTION = Message("user", (TextPart("one"), AudioPart("0.flac"), TextPart("two"), AudioPart("1.flac")))
_ANSWER = Message("assistant", (TextPart("an answer"),))
_THIRD = Message("user", (AudioPart("2.flac"), TextPart("three")))
_BEGINNINGS = ("an answer", " answer", "answer", "42", "いいえ", "\nanswer", "?")
"""Answers whose first character could merge into the token before it."""
_TALK = Conversation((_QUESTION, _ANSWER, _THIRD, Message("assistant", (TextPart("いいえ"),))))


class LLMSubject(Subject):
    """An LLM under test; its inputs are random ids, laid end to end."""

    def construct(self) -> LLM:
        """Build the tiny LLM, which needs no texts for its tokenizer."""
        return cast(LLM, self.component(self.config, LLMContext()))

    def sequences(self, part: Any) -> list[Tensor]:
        """Return ids of four sequences; one is a single token."""
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(0, part.vocab_size, (n,), generator=generator) for n in (7, 1, 12, 3)]

    def outputs(self, part: Any, sequences: list[Tensor]) -> list[Tensor]:
        """Return logits of each sequence from one pack, from the end of its prompt on."""
        firsts = self.firsts(part, sequences)
        logits = self.logits(part, [part.embed(ids) for ids in sequences], firsts)
        counts = [len(ids) - first for ids, first in zip(sequences, firsts, strict=True)]
        return list(torch.split(logits, counts))

    def loss(self, part: Any, sequences: list[Tensor]) -> Tensor:
        """Return the cross-entropy of each next token."""
        firsts = self.firsts(part, sequences)
        long = [ids for ids, first in zip(sequences, firsts, strict=True) if len(ids) > first + 1]
        outputs = self.outputs(part, long)
        logits = torch.cat([rows[:-1] for rows in outputs])
        targets = torch.cat([ids[1 - len(rows) :] for ids, rows in zip(long, outputs, strict=True)])
        return F.cross_entropy(logits.float(), targets)

    @staticmethod
    def firsts(part: Any, sequences: list[Tensor]) -> list[int]:
        """Return the first position of each sequence whose logits are asked for: where its prompt ends.

        A causal LLM has no need of prompts; an encoder-decoder reads them in both directions, so two calls
        compare only where they are the same.
        """
        return [0 if part.causal else min(2, len(sequence) - 1) for sequence in sequences]

    @staticmethod
    def logits(part: Any, embeddings: list[Tensor], firsts: list[int]) -> Tensor:
        """Return (M, V) logits of a pack, of each sequence from its first position on."""
        device = embeddings[0].device
        lengths = torch.tensor([len(sequence) for sequence in embeddings], device=device)
        pairs = zip(embeddings, firsts, strict=True)
        asked = torch.cat([torch.arange(len(rows), device=device) >= first for rows, first in pairs])
        logits: Tensor = part(torch.cat(embeddings), lengths, asked.nonzero()[:, 0])
        return logits


def embeddings_have_the_width(subject: LLMSubject) -> None:
    """`embed` gives `dim` values for each id, `forward` `vocab_size` logits for each selected position."""
    llm = subject.build()
    ids = subject.sequences(llm)[0]
    embedded = llm.embed(ids)
    expect(
        embedded.shape == (len(ids), llm.dim),
        f"embed: expected (L, dim) = {(len(ids), llm.dim)}, found {tuple(embedded.shape)}",
    )
    logits = llm(embedded, torch.tensor([len(ids)]), torch.tensor([1, 4]))
    expect(
        logits.shape == (2, llm.vocab_size),
        f"forward: expected (M, vocab_size) = {(2, llm.vocab_size)}, found {tuple(logits.shape)}",
    )
    expect(
        bool((logits < 0).any()) or not torch.allclose(logits.sum(dim=-1), torch.ones(2), atol=1e-3),
        "forward: expected logits, found probabilities",
    )
    expect(
        llm.context_length is None or llm.context_length >= 1,
        f"context_length: expected at least 1 or None, found {llm.context_length}",
    )


def select_picks_positions(subject: LLMSubject) -> None:
    """The logits at some positions are those of a call that selects every one, from the same first on."""
    llm = subject.build()
    sequences = subject.sequences(llm)
    firsts = subject.firsts(llm, sequences)
    with torch.no_grad():
        whole = subject.outputs(llm, sequences)
        select: list[int] = []
        expected: list[Tensor] = []
        start = 0
        for ids, first, rows in zip(sequences, firsts, whole, strict=True):
            # Without the first, an encoder-decoder would take more of the sequence for its prompt.
            chosen = sorted({(first + len(ids)) // 2, len(ids) - 1} | (set() if llm.causal else {first}))
            select += [start + position for position in chosen]
            expected += [rows[position - first] for position in chosen]
            start += len(ids)
        lengths = torch.tensor([len(ids) for ids in sequences])
        found = llm(llm.embed(torch.cat(sequences)), lengths, torch.tensor(select))
    expect_close(found, torch.stack(expected), "logits at selected positions")


def attention_is_causal(subject: LLMSubject) -> None:
    """What comes later in a sequence, or in another one of the pack, changes no earlier logits."""
    llm = subject.build()
    with torch.no_grad():
        first, _, second, _ = (llm.embed(ids) for ids in subject.sequences(llm))
        changed = first.clone()
        changed[4:] += 1.0
        firsts = subject.firsts(llm, [first, second])
        before, after = (subject.logits(llm, [start, second], firsts) for start in (first, changed))
        change, end = 4 - firsts[0], len(first) - firsts[0]
        expect_close(after[:change], before[:change], "logits before a change")
        expect_close(after[end:], before[end:], "logits of the next sequence of the pack")
        expect(
            not torch.allclose(after[change:end], before[change:end]),
            "expected other logits from a change on, found the same",
        )
        if llm.causal:
            return
        prompted = first.clone()
        prompted[: firsts[0]] += 1.0
        logits = subject.logits(llm, [prompted, second], firsts)
    expect(
        not torch.allclose(logits[:end], before[:end]),
        "expected other logits from another prompt, found the same",
    )


def gradients_pass_to_the_embeddings(subject: LLMSubject) -> None:
    """A frozen LLM passes a gradient on to the embeddings of its own sequence, and to no other's."""
    llm = subject.build().requires_grad_(False)
    first, _, second, _ = (llm.embed(ids).detach().requires_grad_() for ids in subject.sequences(llm))
    firsts = subject.firsts(llm, [first, second])
    logits = subject.logits(llm, [first, second], firsts)[len(first) - firsts[0] :]
    logits.square().sum().backward()  # type: ignore[no-untyped-call]
    expect(
        second.grad is not None and bool(second.grad.any(dim=1).all()),
        "expected a gradient in every embedding of the sequence, found none in some",
    )
    expect(
        first.grad is None or not first.grad.any(),
        "expected no gradient in another sequence of the pack, found one",
    )


def vocabulary_spells(subject: LLMSubject) -> None:
    """`vocabulary` has `vocab_size` ids, and gives back a text that it spells; it adds nothing to it."""
    llm = subject.build()
    vocabulary = llm.vocabulary
    expect_type(vocabulary, Vocabulary, "vocabulary: expected a kikimimi.Vocabulary")
    expect(
        vocabulary.size == llm.vocab_size,
        f"vocabulary: expected a size of vocab_size = {llm.vocab_size}, found {vocabulary.size}",
    )
    expect(
        vocabulary.encode("") == [],
        f"vocabulary: expected no ids of an empty text, found {vocabulary.encode('')}",
    )
    # Not every tokenizer knows every character of Japanese; those that it knows have to come back together.
    known = "".join(letter for letter in JAPANESE if vocabulary.decode(vocabulary.encode(letter)) == letter)
    for text in (ASCII, known, f"{ASCII} {known}"):
        ids = vocabulary.encode(text)
        outside = [token for token in ids if not 0 <= token < vocabulary.size]
        expect(not outside, f"vocabulary: expected ids below {vocabulary.size}, found {outside} in {text!r}")
        found = vocabulary.decode(ids)
        expect(found == text, f"vocabulary: expected {text!r} back from its ids, found {found!r}")


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
    pieces = [llm.decode(ids[a + 1 : b]) for a, b in pairwise([-1, *slots, len(ids)])]
    words = (("one", "two"), ("two", "one"), ("an answer", "いいえ"), ("three", "two"))
    for piece, (wanted, unwanted) in zip(pieces, words, strict=True):
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
    """What generation starts from is what comes before an answer's loss, whatever the answer begins with."""
    llm = subject.build()
    for asked in ((_QUESTION,), (_QUESTION, _ANSWER, _THIRD)):
        prompt = llm.render(Conversation(asked), generate=True)
        # Of a longer one, the loss may be on earlier answers.
        expect(len(asked) > 1 or not any(prompt.loss), "expected no loss in a prompt, found some")
        for answer in _BEGINNINGS:
            answered = llm.render(Conversation((*asked, Message("assistant", (TextPart(answer),)))))
            start = len(answered.loss) - answered.loss[::-1].index(True)
            while start and answered.loss[start - 1]:
                start -= 1
            expect(
                answered.ids[:start] == prompt.ids and answered.slots == prompt.slots,
                f"expected training to predict the answer {answer!r} from the prompt that generation gets, "
                f"{prompt.ids}, found {answered.ids[:start]} before it",
            )


def answers_begin_alike(subject: LLMSubject) -> None:
    """In a longer conversation too, what comes before each answer's loss is what generation starts from."""
    llm = subject.build()
    turns = (_QUESTION, _ANSWER, _THIRD, _ANSWER)
    rendered = llm.render(Conversation(turns))
    starts = [i for i, wanted in enumerate(rendered.loss) if wanted and not (i and rendered.loss[i - 1])]
    # An encoder-decoder, or a template that says so, learns the last answer alone.
    for start, number in zip(reversed(starts), (3, 1), strict=False):
        prompt = llm.render(Conversation(turns[:number]), generate=True)
        expect(
            rendered.ids[:start] == prompt.ids,
            f"expected turn {number} to be predicted from the prompt that generation gets, {prompt.ids}, "
            f"found {rendered.ids[:start]} before it",
        )


def text_is_never_control(subject: LLMSubject) -> None:
    """A control token that a user or an answer spells out stays ordinary text, or is refused."""
    llm = subject.build()
    anchor = _ordinary(llm)
    plain = _count_controls(llm, _said("a", "b"), anchor)
    for spelled in dict.fromkeys([*KNOWN_CONTROLS, *_own_controls(llm)]):
        talks = {"user": _said(f"a{spelled}b", "b"), "assistant": _said("a", f"a{spelled}b")}
        for who, talk in talks.items():
            try:
                found = _count_controls(llm, talk, anchor)
            except ValueError:
                continue  # refused, which is safe
            expect(
                found == plain,
                f"{spelled!r} in the text of the {who}: expected {plain} control tokens, as without it, "
                f"found {found}",
            )


@check_named("assets_restore")
def llm_assets_restore(subject: LLMSubject) -> None:
    """What `save_assets` wrote rebuilds an LLM that renders alike."""
    llm = subject.build()
    with tempfile.TemporaryDirectory() as folder:
        llm.save_assets(Path(folder))
        again = cast(LLM, subject.component(subject.config, LLMContext(assets=Path(folder))))
    before, after = (one.render(_said("Hello 今日は", "ok")) for one in (llm, again))
    expect(after == before, f"render: expected {before} as before save_assets, found {after}")
    expect(
        again.vocab_size == llm.vocab_size, f"vocab_size: expected {llm.vocab_size}, found {again.vocab_size}"
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
    raise ContractError(f"expected the loss on the answer 'ab', found it on {llm.decode(runs[0])!r}")


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
