"""Fully sharded training: Lightning's strategy over a model in pieces (`kikimimi.model.sharding`).

All ranks have to run the same blocks in the same order: `SpeechLM.stand_in` sees to it where a micro-batch
holds no clip, and `_fill_gradients` where a parameter has no part in a loss.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from kikimimi.model.sharding import shard
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.training.state.checkpoint import FolderCheckpointIO
from kikimimi.weights.tensors import StoredTensor, like


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with kikimimi's checkpoints in place of pickled ones."""

    def __init__(self, ranks: int, backend: str | None) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, process_group_backend=backend)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether the trainer restores the optimiser: it does, by `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the tensors that a checkpoint holds, sharded ones among them."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimiser's state, sharded as the parameters are."""
        return getattr(optimizer, "_optimizer", optimizer).state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint: all ranks take part."""
        self.checkpoint_io.save_checkpoint(checkpoint, Path(filepath), storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; of sharded tensors nothing is read before it is known which rows are needed."""
        io = self.checkpoint_io
        assert isinstance(io, FolderCheckpointIO)
        return io.take(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill this rank's pieces of the model."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Fill this rank's pieces of the optimiser's state."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            of = dict(zip(numbers, parameters, strict=True))
            state = {
                number: {name: _placed(value, of[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})


def _placed(value: Any, parameter: Tensor) -> Any:
    return like(parameter, value) if isinstance(value, StoredTensor) else value


def shard_for_training(model: SpeechLM, mesh: DeviceMesh, precision: str) -> None:
    """Spread a model over ranks, as `shard` does, and let every block have all of its gradients.

    Raises:
        RequestError: A parameter has no dimension along which it could be shared out.
    """
    for block in shard(model, mesh, precision):
        block.register_forward_pre_hook(_watch_inputs, with_kwargs=True)


def complete_gradients(model: SpeechLM, loss: Tensor) -> None:
    """Let the backward pass of a loss give every trained parameter a gradient, zero where it has no part.

    Ranks add up the gradients of a block as one piece of memory: a parameter that has a gradient on one and
    none on another would shift all that follow it.
    """
    # FSDP's own last step is put into the same queue later, and so comes after this.
    engine = torch.autograd.Variable._execution_engine
    _on_gradient(loss, lambda: engine.queue_callback(lambda: _fill_gradients(model)))


def _watch_inputs(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Fill the gradients of a block before its ranks add them up: when those of its inputs are known."""
    if not torch.is_grad_enabled() or not any(p.requires_grad for p in module.parameters()):
        return
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor) and value.requires_grad:
            _on_gradient(value, lambda: _fill_gradients(module))


def _on_gradient(tensor: Any, work: Callable[[], None]) -> None:
    tensor.register_hook(lambda _: work())


def _fill_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.grad is None and not isinstance(parameter, DTensor):
            parameter.grad = torch.zeros_like(parameter)


def share_buffers(model: nn.Module) -> None:
    """Give every rank the running statistics of the first, as DDP does."""
    for module in model.modules():
        if not module.training:
            continue
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                torch.distributed.broadcast(buffer, 0)
