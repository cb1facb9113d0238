"""Checks of an LLM's forward pass and generation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from kikimimi.contracts.component import LLM, LLMContext
from kikimimi.contracts.conversation import Conversation, Message, TextPart
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.vocabulary import Vocabulary
from kikimimi.testing.contract import expect, expect_close
from kikimimi.testing.subject import Subject

NEW_TOKENS = 6
ASCII = "Hello, world 42."
JAPANESE = "今日はいい天気です。コーヒーを2杯"
TIE = 1e-4
"""Two logits that differ by less may change places between two ways to compute them."""


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
        starts = self.firsts(part, long)
        logits = torch.cat([rows[:-1] for rows in self.outputs(part, long)])
        targets = torch.cat([ids[first + 1 :] for ids, first in zip(long, starts, strict=True)])
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
        ends = lengths.cumsum(0).tolist()
        select = torch.cat(
            [
                torch.arange(end - len(sequence) + first, end, device=device)
                for sequence, first, end in zip(embeddings, firsts, ends, strict=True)
            ]
        )
        logits: Tensor = part(torch.cat(embeddings), lengths, select)
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
        llm.context_length is None or llm.context_length >= 1,
        f"context_length: expected at least 1 or None, found {llm.context_length}",
    )


def select_picks_positions(subject: LLMSubject) -> None:
    """The logits at some positions are those of a call that selects every one, from the same first on."""
    llm = subject.build()
    sequences = subject.sequences(llm)
    firsts = subject.firsts(llm, sequences)
    with torch.no_grad():
        embeddings = [llm.embed(ids) for ids in sequences]
        whole = torch.split(
            subject.logits(llm, embeddings, firsts),
            [len(ids) - first for ids, first in zip(sequences, firsts, strict=True)],
        )
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
        found = llm(torch.cat(embeddings), lengths, torch.tensor(select))
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


def generation_follows_forward(subject: LLMSubject) -> None:
    """Each greedily generated id is the most probable one by `forward`, from the first to the end."""
    llm = subject.build()
    prompts = _prompts(llm)
    generated = llm.generate(prompts, Generation(max_new_tokens=NEW_TOKENS))
    expect(len(generated) == len(prompts), f"expected {len(prompts)} answers, found {len(generated)}")
    expect(any(generated), "expected at least one new token, found only empty answers")
    with torch.no_grad():
        for number, (prompt, ids) in enumerate(zip(prompts, generated, strict=True)):
            expect(
                len(ids) <= NEW_TOKENS,
                f"answer {number}: expected at most {NEW_TOKENS} ids, found {len(ids)}",
            )
            new = torch.tensor(ids, dtype=torch.int64)
            logits = subject.logits(llm, [torch.cat([prompt, llm.embed(new)])], [len(prompt) - 1])
            for step, token in enumerate(ids):
                best = int(logits[step].argmax())
                expect(
                    bool(logits[step, token] >= logits[step, best] - TIE),
                    f"answer {number}, token {step}: generate gives {token}, forward {best}",
                )
            if len(ids) < NEW_TOKENS:
                last = int(logits[len(ids)].argmax())
                expect(
                    llm.decode([last]) == "",
                    f"answer {number} stops after {len(ids)} tokens, but forward goes on with {last}",
                )


def generation_in_a_batch_is_the_same(subject: LLMSubject) -> None:
    """Prompts of unequal lengths, generated together, give what each gives alone; and texts."""
    llm = subject.build()
    prompts, settings = _prompts(llm), Generation(max_new_tokens=NEW_TOKENS)
    together = llm.generate(prompts, settings)
    for number, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        alone = llm.generate([prompt], settings)[0]
        expect(
            found == alone,
            f"answer {number}: expected {alone} as the prompt alone gives, found {found} in a batch",
        )
        text = llm.decode(found)
        expect(isinstance(text, str), f"decode: expected a text, found {type(text).__name__}")


def vocabulary_spells(subject: LLMSubject) -> None:
    """`vocabulary` has `vocab_size` ids, and gives back a text that it spells; it adds nothing to it."""
    llm = subject.build()
    vocabulary = llm.vocabulary
    expect(
        isinstance(vocabulary, Vocabulary),
        f"vocabulary: expected a kikimimi.Vocabulary, found {type(vocabulary).__name__}",
    )
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


def assets_restore(subject: LLMSubject) -> None:
    """What `save_assets` wrote rebuilds an LLM that renders alike."""
    llm = subject.build()
    with tempfile.TemporaryDirectory() as folder:
        llm.save_assets(Path(folder))
        again = cast(LLM, subject.component(subject.config, LLMContext(assets=Path(folder))))
    turns = Conversation(
        (Message("user", (TextPart("Hello 今日は"),)), Message("assistant", (TextPart("ok"),)))
    )
    before, after = llm.render(turns), again.render(turns)
    expect(after == before, f"render: expected {before} as before save_assets, found {after}")
    expect(
        again.vocab_size == llm.vocab_size, f"vocab_size: expected {llm.vocab_size}, found {again.vocab_size}"
    )


def _prompts(llm: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    lengths = (5, 9, 2, 14)
    with torch.no_grad():
        return [llm.embed(torch.randint(0, llm.vocab_size, (n,), generator=generator)) for n in lengths]
