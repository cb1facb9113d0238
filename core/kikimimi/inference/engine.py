"""The engine that answers: the only place that renders prompts, packs them, generates, and says what does not
fit. Evaluation and transcription stand on it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kikimimi.contracts.answer import Answer, open_thought
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.contracts.component import AdapterOutput
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.precision import autocast
from kikimimi.contracts.scored import Packed
from kikimimi.errors import DataError, KikimimiError, RoomError
from kikimimi.inference.sampling import drawn_by_row, prompt_seed
from kikimimi.model.sharding import is_sharded
from kikimimi.model.speech_lm import SpeechLM

BATCH_SIZE = 16
"""How many conversations are answered together, where nothing else is asked for."""
_TAIL = 32  # tokens at the end of a prompt, in which a thought may be opened


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer.

    Attributes:
        name: What messages call it: a record's place, a file; may be empty.
        conversation: The turns before the answer.
        clips: One (S,) waveform for each of its audio parts, in order, at the engine's sampling rate.
        seed: Seed of sampling; None is the engine's.
    """

    name: str
    conversation: Conversation
    clips: Sequence[Tensor]
    seed: int | None = None

    def sampling_seed(self, default: int) -> int:
        """Return what seeds its answer: it depends on what is asked and heard, and on no other prompt."""
        return prompt_seed(default if self.seed is None else self.seed, self.conversation, self.clips)

    def wrong(self, what: str) -> DataError:
        """Return the error that something is wrong with it."""
        return DataError(f"{self.name}: {what}" if self.name else what)


@dataclass(frozen=True)
class Opened:
    """A prompt that the LLM can continue.

    Attributes:
        embeddings: (L, D).
        asked: Its last ids.
        allowed: Most tokens of its answer: fewer than asked for where the context ends before.
        seed: What seeds its sampling.
    """

    embeddings: Tensor
    asked: list[int]
    allowed: int
    seed: int


class Engine:
    """A model that answers conversations.

    Args:
        model: The model, in eval mode; it is moved to the device.
        device: Where it runs; None is a GPU if there is one.
        precision: Number format of computing, as a recipe spells it.
        seed: Seed of sampling. An answer depends on it and on its own prompt, not on its batch.

    Attributes:
        shares: How many processes divide a batch among them.
        sample_rate: The clips' sampling rate [Hz].
        max_seconds: Longest clip [s]; None means unbounded.
    """

    shares: int = 1

    def __init__(
        self, model: SpeechLM, device: torch.device | None = None, *, precision: str = "fp32", seed: int = 0
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision, self.seed = precision, seed
        # A model in pieces is where it belongs.
        self.model = model if is_sharded(model) else model.to(self.device)
        self.sample_rate = model.encoder.sample_rate
        self.max_seconds = model.encoder.max_seconds

    def answer(
        self, prompts: Sequence[Prompt], generation: Generation, batch_size: int = BATCH_SIZE
    ) -> list[Answer]:
        """Answer conversations, those of similar length together.

        Returns:
            One text for each, in the order of the prompts: what the LLM wrote, thoughts included, without
            white space around it.

        Raises:
            DataError: A clip is longer than the encoder takes, or a conversation cannot be rendered.
            RoomError: One leaves no room for an answer in the LLM's context.
        """
        for prompt in prompts:
            self.check(prompt)
        lengths = [sum(map(len, prompt.clips)) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda number: -lengths[number])
        answers = [Answer("")] * len(prompts)
        for group in self._groups(prompts, by_length):
            for start in range(0, len(group), batch_size):
                numbers = group[start : start + batch_size]
                texts = self._answer([prompts[number] for number in numbers], generation)
                for number, text in zip(numbers, texts, strict=True):
                    answers[number] = text
        return answers

    def _groups(self, prompts: Sequence[Prompt], numbers: list[int]) -> list[list[int]]:
        """Part prompts with audio from others, where the LLM answers them apart in any case."""
        if self.model.gate is None:
            return [numbers]
        return [[n for n in numbers if bool(prompts[n].clips) == heard] for heard in (True, False)]

    def pack(self, prompts: Sequence[Prompt]) -> tuple[Batch, Packed, AdapterOutput | None]:
        """Render prompts and write the audio tokens into their slots.

        Returns:
            The batch, its pack, and what the adapter made of the clips, where there are any.

        Raises:
            DataError: A conversation cannot be rendered.
        """
        return self._pack(prompts)

    @torch.inference_mode()
    def log_probabilities(
        self, conversations: Sequence[Conversation], batch_size: int = BATCH_SIZE
    ) -> list[tuple[float, int]]:
        """Score what the assistant says in conversations in writing.

        Returns:
            The log-probability of each [nats], summed over its tokens, and how many these are.

        Raises:
            DataError: One cannot be rendered.
            RoomError: One is longer than the LLM's context.
        """
        found: list[tuple[float, int]] = []
        for start in range(0, len(conversations), batch_size):
            samples = []
            for conversation in conversations[start : start + batch_size]:
                try:
                    rendered = self.model.llm.render(conversation)
                except ValueError as error:
                    raise DataError(str(error)) from error
                context = self.model.llm.context_length
                if context is not None and len(rendered.ids) > context:
                    raise RoomError(
                        f"a text of {len(rendered.ids)} positions does not fit the LLM's context of {context}"
                    )
                samples.append(Sample("", rendered, []))
            batch = collate(samples).to(self.device)
            with autocast(self.precision, self.device):
                sums, counts = self.model(batch).log_probabilities(len(samples))
            found += zip(sums.tolist(), map(int, counts.tolist()), strict=True)
        return found

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) token ids of the LLM to (L, D)."""
        return self.model.embed(ids.to(self.device))

    @torch.inference_mode()
    def _pack(self, prompts: Sequence[Prompt]) -> tuple[Batch, Packed, AdapterOutput | None]:
        samples = []
        for prompt in prompts:
            try:
                rendered = self.model.llm.render(prompt.conversation, generate=True)
            except ValueError as error:
                raise prompt.wrong(str(error)) from error
            samples.append(Sample(prompt.name, rendered, prompt.clips))
        batch = collate(samples).to(self.device)
        with autocast(self.precision, self.device):
            return batch, *self.model.pack(batch)

    def open(self, prompts: Sequence[Prompt], generations: Sequence[Generation]) -> list[Opened]:
        """Render prompts and hear their clips, for answers that grow a token at a time.

        Raises:
            DataError: A conversation cannot be rendered, or leaves no room for an answer in the context.
        """
        batch, packed, _ = self._pack(prompts)
        lengths = packed.lengths.tolist()
        for prompt, length in zip(prompts, lengths, strict=True):
            self._check_room(prompt, length)
        parts = torch.split(packed.embeddings, lengths)
        asked = torch.split(batch.ids, batch.lengths.tolist())
        return [
            Opened(
                embeddings,
                ids[-_TAIL:].tolist(),
                self._allowed(len(embeddings), generation),
                prompt.sampling_seed(self.seed),
            )
            for prompt, generation, embeddings, ids in zip(prompts, generations, parts, asked, strict=True)
        ]

    def _answer(self, prompts: Sequence[Prompt], generation: Generation) -> list[Answer]:
        batch, packed, _ = self._pack(prompts)
        for prompt, length in zip(prompts, packed.lengths.tolist(), strict=True):
            self._check_room(prompt, length)
        seeds = [prompt.sampling_seed(self.seed) for prompt in prompts]
        draws = drawn_by_row(seeds, self.device) if generation.temperature > 0 else nullcontext()
        try:
            with draws, autocast(self.precision, self.device):
                answers = self.model.generate_ids(batch, generation, packed)
        except ValueError as error:  # of a third party's LLM, which may have limits of its own
            if isinstance(error, KikimimiError):
                raise
            named = ", ".join(filter(None, (prompt.name for prompt in prompts)))
            raise DataError(f"{named or 'prompt'}: the LLM cannot answer: {error}") from error
        allowed = self._allowed(int(packed.lengths.max()), generation)
        asked = torch.split(batch.ids, batch.lengths.tolist())
        return [
            Answer(self.written(before[-_TAIL:].tolist(), ids), cut=len(ids) >= allowed)
            for before, ids in zip(asked, answers, strict=True)
        ]

    def written(self, asked: list[int], ids: list[int]) -> str:
        """Return what the LLM wrote, with the tag of a thought that its prompt has opened.

        Args:
            asked: The last ids of the prompt.
            ids: All ids of the answer.
        """
        thought = open_thought(self.model.llm.decode(asked))
        return f"{thought or ''}{self.model.llm.decode(ids).strip()}"

    def _allowed(self, positions: int, generation: Generation) -> int:
        """Return how many tokens an answer may have: fewer than asked for where the context ends before."""
        context = self.model.llm.context_length if self.model.llm.causal else None
        room = generation.max_new_tokens if context is None else context - positions
        return min(generation.max_new_tokens, room)

    def check(self, prompt: Prompt) -> None:
        """Look at a prompt's clips.

        Raises:
            DataError: One is longer than the encoder takes.
        """
        limit = self.max_seconds
        for number, clip in enumerate(prompt.clips):
            if limit is not None and len(clip) > limit * self.sample_rate:
                which = f"clip {number}" if len(prompt.clips) > 1 else "the clip"
                raise prompt.wrong(
                    f"{which} lasts {len(clip) / self.sample_rate:.2f} s, longer than the encoder takes "
                    f"({limit:g} s). Nothing is cut"
                )

    def _check_room(self, prompt: Prompt, positions: int) -> None:
        # Where the answer goes into a decoder of its own, the prompt may fill the context.
        context, room = self.model.llm.context_length, 1 if self.model.llm.causal else 0
        if context is not None and positions + room > context:
            wrong = prompt.wrong(
                f"too long for this run's LLM: a prompt of {positions} positions leaves no room in the "
                f"context of {context}; it may have {context - room} at most. Leave it out, shorten its "
                "clips or its text, or train an adapter that makes fewer tokens of a second"
            )
            raise RoomError(*wrong.args)
