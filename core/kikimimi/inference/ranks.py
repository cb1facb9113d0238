"""Several processes that answer: the first rank asks, the others compute along.

With strategy fsdp ranks share memory, not work: each runs all of a batch, and holds a piece of every
parameter. Otherwise they share work: each holds the whole model, and answers its part of a batch. An answer
is the same as from one process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from kikimimi.console.words import counted
from kikimimi.contracts.answer import Answer
from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.generation import Generation
from kikimimi.errors import KikimimiError, RequestError
from kikimimi.files.hashes import UNVERIFIED
from kikimimi.inference.engine import BATCH_SIZE, Engine, Prompt
from kikimimi.inference.load import load_model, load_untrained
from kikimimi.model.assembly import assemble, load_deferred
from kikimimi.model.sharding import shard
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.stand_in import StandIn
from kikimimi.model.trainable import load_trained
from kikimimi.run.folder import RunFolder
from kikimimi.run.made_with import tell_difference
from kikimimi.run.rank import global_rank, slurm_starts_ranks

if TYPE_CHECKING:
    from kikimimi.recipe import Trainer

_PATIENCE = timedelta(days=30)  # for which a rank waits to be asked: baselines transcribe meanwhile
_Ask = Literal["load", "answer", "share", "pack", "embed", "log_probabilities", "end"]


def are_several(trainer: Trainer) -> bool:
    """Whether a recipe runs on several ranks."""
    return trainer.devices * trainer.nodes > 1


def start_ranks(trainer: Trainer) -> None:
    """Start the other ranks that a recipe asks for, where no launcher did, and join them; once is enough.

    Raises:
        RequestError: The machine has fewer GPUs.
    """
    if distributed.is_initialized():
        return
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    cpu = trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if not cpu and (there := torch.cuda.device_count()) < trainer.devices:
        raise RequestError(
            f"trainer.devices={trainer.devices}, and this machine has {counted(there, 'GPU')}: give as many "
            "as there are, or for one that holds the whole model trainer.strategy=auto trainer.devices=1 "
            "trainer.nodes=1"
        )
    strategy = ModelParallelStrategy(
        lambda model, mesh: model,
        data_parallel_size=trainer.devices * trainer.nodes,
        tensor_parallel_size=1,
        process_group_backend="gloo" if cpu else None,
    )
    fabric = Fabric(
        accelerator="cpu" if cpu else trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        strategy=strategy,
    )
    fabric.launch()


class Ranks:
    """The processes that a recipe runs on, as one of them sees them.

    Those that no launcher started are started when the model is needed: scoring alone needs none.

    Args:
        run: The run whose model they hold.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.leads = global_rank() == 0
        self.spread = run.recipe.trainer.strategy == "fsdp"
        self._group: Any = None
        self._launched = "RANK" in os.environ or slurm_starts_ranks() or distributed.is_initialized()
        self._cpu = run.recipe.trainer.accelerator == "cpu" or not torch.cuda.is_available()
        self._model: SpeechLM | None = None

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return torch.device("cpu") if self._cpu else torch.device("cuda", torch.cuda.current_device())

    def join(self) -> None:
        """Start the ranks, or wait until all are there.

        Raises:
            RequestError: The machine has fewer GPUs.
        """
        start_ranks(self.run.recipe.trainer)
        self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def end(self) -> None:
        """Let the others go; the first rank calls it, whatever has happened."""
        if self._group is None and self._launched:
            self.join()
        if self._group is not None:
            self.ask("end")

    def load(self, stage: str, weights: Path | None) -> SpeechLM:
        """Load the weights of a stage on all ranks, as `load_model` does on one; the first rank calls it.

        None is a model before any training, as `load_untrained` has it.
        """
        if self._group is None:
            self.join()
        self.ask("load", stage, weights)
        return self._load(stage, weights)

    def ask(self, what: _Ask, *given: Any) -> None:
        """Let the other ranks do what this one is about to do."""
        distributed.broadcast_object_list([(what, given)], 0, self._group)

    def follow(self) -> None:
        """Do what the first rank asks for, until it has ended."""
        self.join()
        while True:
            asked: list[Any] = [None]
            distributed.broadcast_object_list(asked, 0, self._group)
            what, given = asked[0]
            if what == "end":
                return
            try:
                if what == "load":
                    self._load(*given)
                elif what == "share":
                    self.answer_part(*given)
                else:
                    precision, seed, *arguments = given
                    assert self._model is not None
                    engine = Engine(self._model, self.device, precision=precision, seed=seed)
                    getattr(engine, what)(*arguments)
            except KikimimiError:
                continue  # the first rank has the same, and says it

    def answer_part(
        self, precision: str, seed: int, prompts: Sequence[Prompt], generation: Generation, batch_size: int
    ) -> list[Answer]:
        """Answer this rank's part of some prompts, where each rank holds the whole model.

        Returns:
            Answers to all prompts, in order, on the first rank; nothing on others.

        Raises:
            KikimimiError: A rank could not answer; the first one says why.
        """
        assert self._model is not None
        rank, size = distributed.get_rank(), distributed.get_world_size()
        engine = Engine(self._model, self.device, precision=precision, seed=seed)
        part: list[Answer] | KikimimiError
        try:
            part = engine.answer(prompts[rank::size], generation, batch_size)
        except KikimimiError as error:  # the others wait for this rank's part all the same
            part = error
        parts: list[Any] = [None] * size
        distributed.gather_object(part, parts if self.leads else None, 0, self._group)
        if not self.leads:
            return []
        for found in parts:
            if isinstance(found, KikimimiError):
                raise found
        return [parts[row % size][row // size] for row in range(len(prompts))]

    def _load(self, stage: str, weights: Path | None) -> SpeechLM:
        recipe = self.run.recipe
        if not self.spread:
            whole = (
                load_untrained(self.run, stage) if weights is None else load_model(self.run, stage, weights)
            )
            self._model = whole
            return whole
        mesh = init_device_mesh(self.device.type, (distributed.get_world_size(),))
        model = assemble(recipe.at(stage), assets=self.run.assets, deferred=True)
        model.eval().requires_grad_(False)
        # Gathered as it is, and cast where one process casts: the same numbers.
        shard(model, mesh, "fp32")
        load_deferred(model)
        if weights is not None and not load_trained(model, recipe, stage, weights) and self.leads:
            tell_difference(weights, UNVERIFIED)
        model.stand_in = StandIn.of(model.encoder, cached=False)
        for module in model.llm.modules():
            if isinstance(module, nn.Module) and hasattr(module, "generate"):
                # transformers lets ranks generate for as long as any of them does.
                module._is_fsdp_managed_module = True  # type: ignore[assignment]
        self._model = model
        return model


class LeadingEngine(Engine):
    """The first rank's engine, which the others run along with, or share the work of.

    Args:
        ranks: Processes that hold the model.
        model: The model in pieces.
        precision: Number format of computing.
        seed: Seed of sampling.
    """

    def __init__(self, ranks: Ranks, model: SpeechLM, *, precision: str, seed: int) -> None:
        super().__init__(model, ranks.device, precision=precision, seed=seed)
        self._ranks = ranks
        self.shares = 1 if ranks.spread else distributed.get_world_size()

    def answer(
        self, prompts: Sequence[Prompt], generation: Generation, batch_size: int = BATCH_SIZE
    ) -> list[Answer]:
        """Answer conversations; see `Engine.answer`."""
        given = (self.precision, self.seed, prompts, generation, batch_size)
        if not self._ranks.spread:
            self._ranks.ask("share", *given)
            return self._ranks.answer_part(*given)
        self._ranks.ask("answer", *given)
        return super().answer(prompts, generation, batch_size)

    def pack(self, prompts: Sequence[Prompt]) -> Any:
        """Render and pack prompts; see `Engine.pack`."""
        if self._ranks.spread:
            self._ranks.ask("pack", self.precision, self.seed, prompts)
        return super().pack(prompts)

    def log_probabilities(
        self, conversations: Sequence[Conversation], batch_size: int = BATCH_SIZE
    ) -> list[tuple[float, int]]:
        """Score answers; see `Engine.log_probabilities`."""
        if self._ranks.spread:
            self._ranks.ask("log_probabilities", self.precision, self.seed, conversations, batch_size)
        return super().log_probabilities(conversations, batch_size)

    def embed(self, ids: Tensor) -> Tensor:
        """Embed ids; see `Engine.embed`."""
        if self._ranks.spread:
            self._ranks.ask("embed", self.precision, self.seed, ids)
        return super().embed(ids)
