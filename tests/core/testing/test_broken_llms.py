"""LLMs that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kikimimi import (
    AudioPart,
    Conversation,
    Generation,
    Message,
    Rendered,
    TextPart,
    TokenizerVocabulary,
    Vocabulary,
)
from kikimimi.testing import list_checks
from kikimimi.testing.checks import FOR_LLMS
from kikimimi_llms.decoder import Llama
from kikimimi_llms.decoder_batch import DecoderBatch


class WrongWidth(Llama):
    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self.dim = 32


class IgnoresSelect(Llama):
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        return super().forward(embeddings, lengths, torch.arange(len(select)))


class AttendsAcrossThePack(Llama):
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        return super().forward(embeddings, lengths.sum()[None], select)


class LooksAhead(Llama):
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        ahead = torch.cat([embeddings[1:], embeddings[:1]])
        return super().forward(embeddings + 0.1 * ahead, lengths, select)


class Detaches(Llama):
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        tokens = embeddings.detach() + 0.0 * embeddings
        return super().forward(tokens, lengths, select)


class GeneratesOneOff(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return [[token + 1 for token in ids] for ids in super().generate(prompts, generation)]


class StopsEarly(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return [ids[:2] for ids in super().generate(prompts, generation)]


class IgnoresBeams(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return super().generate(prompts, replace(generation, num_beams=1))


class RefusesBeamsWithoutWords(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        if generation.num_beams > 1:
            raise ValueError
        return super().generate(prompts, generation)


class SaysNothing(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return [[] for _ in prompts]


class AnswersInReverse(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return super().generate(prompts, generation)[::-1]


class NobodyLeaves(DecoderBatch):
    def keep(self, rows: Sequence[int]) -> None:
        super().keep(range(len(rows)))


class SeesPadding(DecoderBatch):
    def _run(self, embeddings: Tensor, mask: Tensor, cache: Any) -> Tensor:
        return super()._run(embeddings, torch.ones_like(mask), cache)


class KeepsTheWrongRows(Llama):
    def running_batch(self) -> DecoderBatch:
        return NobodyLeaves(self.model, self.embed, self._until_stop)


class ContinuesPadding(Llama):
    def running_batch(self) -> DecoderBatch:
        return SeesPadding(self.model, self.embed, self._until_stop)


class LosesAClip(Llama):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        return replace(rendered, slots=rendered.slots[:-1])


class AudioFirst(Llama):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        turns = tuple(
            Message(turn.role, tuple(sorted(turn.parts, key=lambda part: isinstance(part, TextPart))))
            for turn in conversation.messages
        )
        return super().render(replace(conversation, messages=turns), generate=generate)


class LearnsEverything(Llama):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        loss = [position not in rendered.slots for position in range(len(rendered.ids))]
        return replace(rendered, loss=loss)


class NeverLearnsToStop(Llama):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        pairs = zip(rendered.loss, rendered.ids, strict=True)
        return replace(rendered, loss=[wanted and i not in self.chat.stop_ids for wanted, i in pairs])


class TakesTheUsersPart(Llama):
    """Spans with the roles changed."""

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        roles: dict[Any, Any] = {"user": "assistant", "assistant": "user", None: None}
        return replace(rendered, spans=tuple(replace(span, role=roles[span.role]) for span in rendered.spans))


class LeavesTheTemplateOut(Llama):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        return replace(rendered, spans=tuple(s for s in rendered.spans if s.kind != "template"))


class PromptsWithoutHeader(Llama):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        return super().render(conversation)


class MergesABlank(Llama):
    """As a template that ends a prompt in a blank: it is one token with the answer's first word."""

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        last = conversation.messages[-1]
        if last.role != "assistant" or not (last.parts[0].text or "").startswith(" "):
            return rendered
        loss = [here or after for here, after in zip(rendered.loss, rendered.loss[1:], strict=False)]
        return replace(rendered, loss=[*loss, rendered.loss[-1]])


class OpensTheLastAnswer(Llama):
    """As templates that put an empty thought into prompts and before the last answer, but before no other."""

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        ids, loss = list(rendered.ids), list(rendered.loss)
        place = len(ids)
        if not generate:
            place -= loss[::-1].index(True)
            while place and loss[place - 1]:
                place -= 1
        return Rendered(
            [*ids[:place], 7, *ids[place:]], [*loss[:place], False, *loss[place:]], rendered.slots
        )


class ObeysTheUser(Llama):
    """Renders as most code does: the template's text, tokenised as a whole."""

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        if any(isinstance(part, AudioPart) for turn in conversation.messages for part in turn.parts):
            return super().render(conversation, generate=generate)
        ids = self.chat.tokenizer.encode(self.chat.text(conversation), add_special_tokens=False)
        answer = super().render(conversation).loss
        return Rendered(ids, [*answer, *[False] * len(ids)][: len(ids)], [])


class ForgetsItsTokenizer(Llama):
    def save_assets(self, folder: Path) -> None:
        super().save_assets(folder)
        (file,) = folder.rglob("chat_template.jinja")
        file.write_text(file.read_text().replace("<|' + message", "<' + message"))


class Spells(Llama):
    """So that others can replace the vocabulary."""

    spelling: type[TokenizerVocabulary] = TokenizerVocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        return self.spelling(self.chat.tokenizer, self.vocab_size)


class _Markers(TokenizerVocabulary):
    def encode(self, text: str) -> list[int]:
        return [2, *super().encode(text)]


class _Lower(TokenizerVocabulary):
    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())


class _Outside(TokenizerVocabulary):
    def encode(self, text: str) -> list[int]:
        return [token + self.size for token in super().encode(text)]


class AddsMarkers(Spells):
    spelling = _Markers


class SpellsInLowerCase(Spells):
    spelling = _Lower


class SpellsOutside(Spells):
    spelling = _Outside


class CountsFewer(Llama):
    @property
    def vocabulary(self) -> Vocabulary:
        return TokenizerVocabulary(self.chat.tokenizer, self.vocab_size - 1)


class ReadsPrompts(Llama):
    """A sound LLM that is not causal: all of a prompt is in each of its positions."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self.causal = False

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        rendered = super().render(conversation, generate=generate)
        begin = len(rendered.loss)
        while begin and (rendered.loss[begin - 1] or not any(rendered.loss[begin:])):
            begin -= 1
        return replace(rendered, loss=[False] * begin + rendered.loss[begin:])

    def read(self, prompt: Tensor) -> Tensor:
        return prompt + prompt.mean(0)

    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        pieces, start = [], 0
        for sequence in torch.split(embeddings, lengths.tolist()):
            chosen = select[(select >= start) & (select < start + len(sequence))]
            end = int(chosen[0]) - start + 1 if len(chosen) else len(sequence)
            pieces += [self.read(sequence[:end]), sequence[end:]]
            start += len(sequence)
        return super().forward(torch.cat(pieces), lengths, select)

    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return super().generate([self.read(prompt) for prompt in prompts], generation)

    def running_batch(self) -> None:
        return None


class ReadsMoreThanThePrompt(ReadsPrompts):
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        means = [part.mean(0).expand(len(part), -1) for part in torch.split(embeddings, lengths.tolist())]
        return super().forward(embeddings + torch.cat(means), lengths, select)


class IgnoresPrompts(ReadsPrompts):
    def read(self, prompt: Tensor) -> Tensor:
        return prompt[-1:].expand(len(prompt), -1)


class ClaimsToBeCausal(ReadsPrompts):
    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self.causal = True


class LearnsEveryAnswer(ReadsPrompts):
    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        return Llama.render(self, conversation, generate=generate)


class GeneratesWithoutReading(ReadsPrompts):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return Llama.generate(self, [prompt.flip(0) for prompt in prompts], generation)


class Probabilities(Llama):
    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        return super().forward(embeddings, lengths, select).softmax(-1)


class EndsInTraining(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        found = super().generate(prompts, generation)
        self.train()
        return found


class AnswersInTensors(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> Any:
        return [torch.tensor(ids) for ids in super().generate(prompts, generation)]


class AlwaysGreedy(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        return super().generate(prompts, replace(generation, temperature=0.0))


class SeedsItself(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        torch.manual_seed(0)
        return super().generate(prompts, generation)


class OwnDice(Llama):
    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        torch.seed()
        return super().generate(prompts, generation)


BROKEN = [
    (WrongWidth, "embeddings_have_the_width", r"embed: expected \(L, dim\) = \(7, 32\), found \(7, 64\)"),
    (IgnoresBeams, "beams_find_more_probable_answers", r"num_beams: 4: expected others than greedy"),
    (
        RefusesBeamsWithoutWords,
        "beams_find_more_probable_answers",
        r"expected an error that says why",
    ),
    (IgnoresSelect, "select_picks_positions", r"logits at selected positions: expected the same values"),
    (
        AttendsAcrossThePack,
        "attention_is_causal",
        r"logits of the next sequence of the pack: expected the same",
    ),
    (AttendsAcrossThePack, "batch_changes_nothing", r"sequence 1 \(1 long\) in a batch, against it alone"),
    (ReadsMoreThanThePrompt, "attention_is_causal", r"logits before a change: expected the same values"),
    (IgnoresPrompts, "attention_is_causal", r"expected other logits from another prompt, found the same"),
    (ClaimsToBeCausal, "select_picks_positions", r"logits at selected positions: expected the same values"),
    (
        GeneratesWithoutReading,
        "generation_follows_forward",
        r"answer 0, token 0: generate gives \d+, forward",
    ),
    (AddsMarkers, "vocabulary_spells", r"expected no ids of an empty text, found \[2\]"),
    (
        SpellsInLowerCase,
        "vocabulary_spells",
        r"expected 'Hello, world 42.' back from its ids, found 'hello, w",
    ),
    (SpellsOutside, "vocabulary_spells", r"expected ids below 262, found \[\d+, .* in 'Hello"),
    (CountsFewer, "vocabulary_spells", r"expected a size of vocab_size = 262, found 261"),
    (LooksAhead, "attention_is_causal", r"logits before a change: expected the same values"),
    (Detaches, "gradients_pass_to_the_embeddings", r"expected a gradient in every embedding of the sequence"),
    (GeneratesOneOff, "generation_follows_forward", r"answer 0, token 0: generate gives \d+, forward \d+"),
    (StopsEarly, "generation_follows_forward", r"stops after 2 tokens, but forward goes on with \d+"),
    (SaysNothing, "generation_follows_forward", r"expected at least one new token, found only empty answers"),
    (
        AnswersInReverse,
        "generation_in_a_batch_is_the_same",
        r"as the prompt alone gives, found .* in a batch",
    ),
    (KeepsTheWrongRows, "rows_come_and_go", r"row 1, whose batch changes: expected the same values"),
    (ContinuesPadding, "rows_come_and_go", r"row \d, whose batch changes: expected the same values"),
    (Probabilities, "embeddings_have_the_width", r"forward: expected logits, found probabilities"),
    (EndsInTraining, "generation_follows_forward", r"expected the LLM left in eval mode, found model"),
    (AnswersInTensors, "generation_follows_forward", r"generate: expected lists of int, found \[tensor"),
    (AlwaysGreedy, "sampling_draws", r"temperature 10: expected other ids from another seed"),
    (SeedsItself, "sampling_draws", r"temperature 10: expected other ids from another seed"),
    (OwnDice, "sampling_draws", r"temperature 10: expected \[.* from the same seed again, found"),
    (LosesAClip, "slots_are_the_clips", r"3 clips: expected 3 slots, found 2"),
    (AudioFirst, "slots_are_the_clips", r"expected 'one' and not 'two' between two slots, found"),
    (LearnsEverything, "loss_covers_the_answers", r"2 answers: expected as many runs of loss, found 4"),
    (LearnsEveryAnswer, "loss_covers_the_answers", r"1 answers: expected as many runs of loss, found 2"),
    (
        NeverLearnsToStop,
        "loss_covers_the_answers",
        r"expected the loss on the control token that ends the turn",
    ),
    (
        TakesTheUsersPart,
        "spans_tell_who_says_what",
        r"roles and words .*, found \[\('assistant'",
    ),
    (LeavesTheTemplateOut, "spans_tell_who_says_what", r"cover the \d+ ids one after the other, found \["),
    (PromptsWithoutHeader, "training_continues_the_prompt", r"from the prompt that generation gets"),
    (
        OpensTheLastAnswer,
        "answers_begin_alike",
        r"turn 1 to be predicted from the prompt that generation gets",
    ),
    (MergesABlank, "training_continues_the_prompt", r"predict the answer ' answer' from the prompt"),
    (
        ObeysTheUser,
        "text_is_never_control",
        r"'<\|end\|>' in the text of the user: expected 4 control tokens",
    ),
    (ForgetsItsTokenizer, "assets_restore", r"render: expected .* as before save_assets, found"),
]


@pytest.mark.parametrize("component", [ReadsPrompts, Spells])
def test_a_sound_llm_passes(component: type) -> None:
    for check in list_checks("llm", component):
        if check.name != "import_is_quiet":  # test_import_check.py
            check()


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("llm", component) if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check()


def test_every_check_of_llms_has_something_to_catch() -> None:
    assert {name for _, name, _ in BROKEN} >= {function.__name__ for function in FOR_LLMS}
