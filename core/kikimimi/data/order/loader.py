"""Micro-batches in planned order, read from any position: the data side of exact resume."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kikimimi.contracts.batch import Batch, Fault, Sample, View, collate
from kikimimi.data.corpus import Corpus
from kikimimi.data.features import FeatureCache
from kikimimi.data.order.plan import START, Plan, Planned, Position
from kikimimi.data.order.readers import LOOK_EVERY, Readers, handed_over
from kikimimi.data.workers import ignore_signals
from kikimimi.errors import DataError, KikimimiError, RunError
from kikimimi.model.speech_lm import SpeechLM


class BatchDataset(Dataset[Batch]):
    """Turns planned records into a micro-batch; runs in the loader's worker processes."""

    def __init__(
        self,
        corpora: Sequence[Corpus],
        model: SpeechLM,
        seed: int,
        features: FeatureCache | None,
        views: Collection[View] = (),
    ) -> None:
        self.corpora = list(corpora)
        self.model = model
        self.seed = seed
        self.features = features
        self.views = sorted(views)

    def __getitem__(self, planned: list[Planned]) -> Batch:
        """Read one micro-batch; its outcomes tell what was left out, and why."""
        found = [self.sample(item) for item in planned]
        outcomes = [one if isinstance(one, Fault) else None for one in found]
        return collate([one for one in found if isinstance(one, Sample)], outcomes if any(outcomes) else ())

    def sample(self, item: Planned) -> Sample | Fault:
        """Read one record, or say why it cannot be read or does not fit the LLM's context.

        That is not raised: errors of worker processes lose their type, and what is done about it is not for
        a worker to say.
        """
        corpus = self.corpora[item.source]
        try:
            sample = corpus.sample(
                item.row,
                self.model.llm,
                self.model.encoder.sample_rate,
                phrasing_seed=item.phrasing_seed(self.seed, corpus.name),
                features=self.features,
                views=self.views,
            )
            clips = [len(clip) for clip in sample.clips]
            for rendered in (sample.rendered, *sample.views.values()):
                self._check_context(len(rendered.ids), clips if rendered.slots else [])
        except KikimimiError as error:
            return Fault.of(corpus.name, corpus.shards.where(item.row), error)
        return sample

    def _check_context(self, text_length: int, clip_lengths: list[int]) -> None:
        context = self.model.llm.context_length
        if context is None:
            return
        if self.features is None:
            positions = self.model.max_positions(text_length, clip_lengths)
        else:
            tokens = sum(self.model.adapter.max_tokens(frames) for frames in clip_lengths)
            positions = text_length - len(clip_lengths) + tokens
        if positions > context:
            raise DataError(
                f"up to {positions} positions (text and audio tokens), but the LLM's context is {context}. "
                "Nothing is cut; more downsampling in the adapter would make it fit"
            )


class PlanSampler(Sampler[list[Planned]]):
    """This rank's share of a plan's micro-batches.

    Args:
        plan: The endless order.
        total: Micro-batches of the whole stage, over all ranks; divisible by `world_size`.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(self, plan: Plan, total: int, rank: int, world_size: int) -> None:
        self.plan, self.total, self.rank, self.world_size = plan, total, rank, world_size
        self.start, self.position = 0, START

    def __len__(self) -> int:
        return self.total // self.world_size

    def __iter__(self) -> Iterator[list[Planned]]:
        stream = self.plan.micro_batches(self.position)
        for number, planned in zip(range(self.start, self.total), stream, strict=False):
            if number % self.world_size == self.rank:
                yield planned


@dataclass(frozen=True)
class StepBatch:
    """A micro-batch of an optimiser step.

    Attributes:
        batch: The micro-batch.
        ahead: This rank's micro-batches of the step, on the CPU, with the first of them; else none.
    """

    batch: Batch
    ahead: Sequence[Batch]

    def to(self, device: torch.device) -> Self:
        """Move the micro-batch to a device; what is ahead stays."""
        return replace(self, batch=self.batch.to(device))


class StageLoader(DataLoader[Batch]):
    """A data loader that Lightning can resume: its state is the number of micro-batches consumed, and where
    that is in the plan.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        sampler: PlanSampler,
        workers: int,
        order: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            collate_fn=handed_over if workers else None,
            timeout=LOOK_EVERY if workers else 0,  # each time, `Readers` decides whether to go on waiting
            # The dataset holds the model, which is not to be copied, and may be in pieces: what it asks for
            # is tokenizer and lengths. Python 3.14 would no longer fork by itself.
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=ignore_signals,
            # Of its own: torch draws a number whenever a loader is gone through. A run that goes on after a
            # validation would otherwise draw one less than a run that was never interrupted.
            generator=torch.Generator(),
        )
        self.plan_sampler = sampler
        self.order = dict(order or {})
        self.consumed = 0
        self.waiting: Callable[[], None] = lambda: None
        """Called every second while a batch is waited for; may raise."""

    def __iter__(self) -> Any:
        """Yield each micro-batch.

        Raises:
            ReaderError: The processes that read cannot go on.
        """
        start = super().__iter__
        return iter(Readers(start, lambda: self.waiting())) if self.num_workers else start()

    def check_worker_number_rationality(self) -> None:
        """Leave out torch's advice to take no more workers than cores: what they wait for may be a server."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position over all ranks, which a run of another world size can take up."""
        sampler = self.plan_sampler
        epoch, micro_batch = sampler.plan.advance(sampler.position, self.consumed - sampler.start)
        return {"consumed": self.consumed, "epoch": epoch, "micro_batch": micro_batch, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start from a saved position.

        Raises:
            RunError: It is a position in another order.
        """
        for name, saved in state["order"].items():
            if saved != self.order.get(name):
                raise RunError(
                    f"the checkpoint was saved where {name} is {saved}, and here it is "
                    f"{self.order.get(name)}: the order of the data would not be the same. Put it back, or "
                    "start a new run"
                )
        self.consumed = self.plan_sampler.start = int(state["consumed"])
        self.plan_sampler.position = Position(int(state["epoch"]), int(state["micro_batch"]))


class StepLoader(StageLoader):
    """A stage's loader that reads all micro-batches of an optimiser step before it gives the first."""

    def __init__(self, *args: Any, accumulation: int) -> None:
        super().__init__(*args)
        self.accumulation = accumulation
        """Micro-batches of this rank in each optimiser step."""

    def __iter__(self) -> Any:
        """Yield each micro-batch as a `StepBatch`."""
        batches = super().__iter__()
        while ahead := list(islice(batches, self.accumulation)):
            for number, batch in enumerate(ahead):
                yield StepBatch(batch, () if number else ahead)
