"""Checks of how LLMs generate: whole answers, and rows that grow together."""

from typing import Any

import torch
from torch import Tensor

from kikimimi.console.words import listing
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.running_batch import RunningBatch
from kikimimi.errors import KikimimiError
from kikimimi.testing.llm_checks import LLMSubject
from kikimimi.testing.subject import NotTriedError, expect, expect_close, expect_type

_NEW_TOKENS = 6
_HOT = 10.0
"""Temperature at which a tiny model's ids are all about as probable."""
_BEAMS = 4
_CLEARLY = 1e-3
"""Difference of log-probabilities by which another answer has to be better, for beams to find it."""
TIE = 1e-4
"""Two logits that differ by less may change places between two ways to compute them."""


def generation_follows_forward(subject: LLMSubject) -> None:
    """Each greedily generated id is the most probable one by `forward`, from the first to the end."""
    llm = subject.build()
    prompts = _prompts(llm)
    generated = llm.generate(prompts, Generation(max_new_tokens=_NEW_TOKENS))
    modes = {name or "the LLM" for name, module in llm.named_modules() if module.training}
    expect(
        not modes,
        f"generate: expected the LLM left in eval mode, found {listing(sorted(modes)[:3])} in train",
    )
    expect(len(generated) == len(prompts), f"expected {len(prompts)} answers, found {len(generated)}")
    plain = all(isinstance(ids, list) and all(type(token) is int for token in ids) for ids in generated)
    expect(plain, f"generate: expected lists of int, found {generated}")
    expect(any(generated), "expected at least one new token, found only empty answers")
    with torch.no_grad():
        for number, (prompt, ids) in enumerate(zip(prompts, generated, strict=True)):
            expect(
                len(ids) <= _NEW_TOKENS,
                f"answer {number}: expected at most {_NEW_TOKENS} ids, found {len(ids)}",
            )
            new = torch.tensor(ids, dtype=torch.int64)
            logits = subject.logits(llm, [torch.cat([prompt, llm.embed(new)])], [len(prompt) - 1])
            for step, token in enumerate(ids):
                best = int(logits[step].argmax())
                expect(
                    bool(logits[step, token] >= logits[step, best] - TIE),
                    f"answer {number}, token {step}: generate gives {token}, forward {best}",
                )
            if len(ids) < _NEW_TOKENS:
                last = int(logits[len(ids)].argmax())
                expect(
                    llm.decode([last]) == "",
                    f"answer {number} stops after {len(ids)} tokens, but forward goes on with {last}",
                )


def generation_in_a_batch_is_the_same(subject: LLMSubject) -> None:
    """Prompts of unequal lengths, generated together, give what each gives alone; and texts."""
    llm = subject.build()
    prompts, settings = _prompts(llm), Generation(max_new_tokens=_NEW_TOKENS)
    together = llm.generate(prompts, settings)
    for number, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        alone = llm.generate([prompt], settings)[0]
        expect(
            found == alone,
            f"answer {number}: expected {alone} as the prompt alone gives, found {found} in a batch",
        )
        text = llm.decode(found)
        expect_type(text, str, "decode: expected a text")


def beams_find_more_probable_answers(subject: LLMSubject) -> None:
    """Beam search finds other answers than greedy search where `forward` says that others are more probable;
    or a ValueError says that there is none.
    """
    llm = subject.build()
    prompts = [prompt for prompt in _prompts(llm, 6) if _greedy_is_worse(subject, llm, prompt)]
    if not prompts:
        raise NotTriedError("of no prompt that was tried is another answer more probable than the greedy one")
    greedy = llm.generate(prompts, Generation(max_new_tokens=2))
    try:
        found = llm.generate(prompts, Generation(max_new_tokens=2, num_beams=_BEAMS))
    except (ValueError, KikimimiError) as error:
        expect(bool(str(error).strip()), f"num_beams: {_BEAMS}: expected an error that says why, found none")
        return
    expect(
        found != greedy,
        f"num_beams: {_BEAMS}: expected others than greedy answers to some of {len(prompts)} prompts, as "
        "more probable ones exist, found the same. Refuse beams that there are not, by a ValueError",
    )


def _greedy_is_worse(subject: LLMSubject, llm: Any, prompt: Tensor) -> bool:
    """Tell whether two ids that begin with one of the most probable ones are more probable than greedy's."""

    def after(ids: list[int]) -> Tensor:
        with torch.no_grad():
            inputs = torch.cat([prompt, llm.embed(torch.tensor(ids, dtype=torch.int64))])
            return subject.logits(llm, [inputs], [len(prompt) - 1])[-1].float().log_softmax(dim=0)

    first = after([])
    sums: list[float] = []
    for token in first.topk(_BEAMS).indices.tolist():
        second, following = after([token]).max(dim=0)
        if not (llm.decode([token]) and llm.decode([int(following)])):
            return False  # where an answer ends, lengths count as well
        sums.append(float(first[token] + second))
    return max(sums) > sums[0] + _CLEARLY


def sampling_draws(subject: LLMSubject) -> None:
    """With a temperature, the process's generator decides on the ids, and does so alone."""
    llm = subject.build()
    prompts, settings = _prompts(llm), Generation(max_new_tokens=_NEW_TOKENS, temperature=_HOT)

    def drawn(seed: int) -> list[list[int]]:
        torch.default_generator.manual_seed(seed)
        ids: list[list[int]] = llm.generate(prompts, settings)
        return ids

    first, again, other = drawn(1), drawn(1), drawn(2)
    expect(first == again, f"temperature {_HOT:g}: expected {first} from the same seed again, found {again}")
    expect(
        first != other,
        f"temperature {_HOT:g}: expected other ids from another seed of torch's generator, found the same",
    )


def rows_come_and_go(subject: LLMSubject) -> None:
    """Rows of a `running_batch` that enter late, and stay when others leave, have the logits of `forward`."""
    llm = subject.build()
    rows = llm.running_batch()
    if rows is None:
        return  # such an LLM answers whole batches
    expect_type(rows, RunningBatch, "running_batch: expected None or a RunningBatch")
    short = Generation(max_new_tokens=_NEW_TOKENS)
    expect(
        rows.takes(5, short), "takes: expected True of a short prompt that is answered greedily, found False"
    )
    growth = _Growth(rows, _prompts(llm), llm)
    # The second enters beside the first; the third when the first has left; the last into an empty batch.
    growth.add(0, steps=2)
    growth.add(1, steps=2)
    growth.keep(1)
    growth.add(2, steps=2)
    growth.keep()
    growth.add(3, steps=2)
    with torch.no_grad():
        for number, (prompt, found) in enumerate(zip(growth.prompts, growth.logits, strict=True)):
            new = growth.embedded(number)[: len(found) - 1]
            wanted = subject.logits(llm, [torch.cat([prompt, new])], [len(prompt) - 1])
            expect_close(torch.stack(found), wanted.float(), f"row {number}, whose batch changes")


class _Growth:
    """RunningAnswers that grow by random ids, and the logits that they had."""

    def __init__(self, rows: RunningBatch, prompts: list[Tensor], llm: Any) -> None:
        self.rows, self.prompts, self.llm = rows, prompts, llm
        self.ids = torch.randint(0, llm.vocab_size, (len(prompts), 8), generator=_seeded(6))
        self.logits: list[list[Tensor]] = [[] for _ in prompts]
        self.there: list[int] = []

    def embedded(self, number: int) -> Tensor:
        """Return the embeddings of a row's ids."""
        embedded: Tensor = self.llm.embed(self.ids[number])
        return embedded

    def add(self, number: int, *, steps: int) -> None:
        """Let a prompt enter, and all rows grow."""
        with torch.inference_mode():
            (first,) = self.rows.enter([self.prompts[number]])
            self.logits[number].append(first)
            self.there.append(number)
            for _ in range(steps):
                last = torch.stack([self.ids[n, len(self.logits[n]) - 1] for n in self.there])
                for row, logits in zip(self.there, self.rows.step(last), strict=True):
                    self.logits[row].append(logits)

    def keep(self, *numbers: int) -> None:
        """Let all other rows leave."""
        self.rows.keep([self.there.index(number) for number in numbers])
        self.there = list(numbers)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _prompts(llm: Any, times: int = 1) -> list[Tensor]:
    generator = _seeded(5)
    lengths = (5, 9, 2, 14) * times
    with torch.no_grad():
        return [llm.embed(torch.randint(0, llm.vocab_size, (n,), generator=generator)) for n in lengths]
