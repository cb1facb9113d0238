"""Fully sharded training (FSDP2): every rank holds a piece of each parameter, frozen ones too.

The blocks that components name are gathered one by one as they run, and everything outside blocks
(embeddings, the output head) at the start of a micro-batch. All ranks have to run the same blocks in the
same order: `SpeechLM.stand_in` sees to it where a micro-batch holds no clip, and `_fill_gradients` where a
parameter has no part in a loss.

Source: `torch.distributed.fsdp.fully_shard`, Zhao et al. 2023 (arXiv 2304.11277).
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from kikimimi.errors import RequestError
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


def shard(model: SpeechLM, mesh: DeviceMesh, precision: str) -> None:
    """Spread a model over ranks, in place. Parameters on the meta device are given memory, and no values.

    Args:
        model: Assembled, frozen as the stage wants it.
        mesh: The ranks, in one dimension.
        precision: The forward and backward pass's, as a recipe spells it. With bf16, parameters are gathered
            as bf16 and gradients are summed in fp32.

    Raises:
        RequestError: A parameter has no dimension along which it could be shared out.
    """
    scalars = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if scalars:
        raise RequestError(
            f"trainer.strategy: fsdp cannot share out {scalars[0]}, a parameter that is a single number. "
            "Give it the shape (1,), or take strategy ddp"
        )
    # The input of a block stays as autocast leaves it without sharding.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision == "bf16":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    names_of = _names_of_parameters(model)
    blocks = model.blocks()
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for names in names_of:
        _materialise(model, names)
    for block in blocks:
        block.register_forward_pre_hook(_watch_inputs, with_kwargs=True)
    for method in ("pack", "encode", "embed"):
        register_fsdp_forward_method(model, method)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was applied."""
    return isinstance(model, FSDPModule)


def _names_of_parameters(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter: several where it is tied."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def _materialise(model: nn.Module, names: list[str]) -> None:
    """Give a sharded parameter memory, of this rank's rows alone, where it has none."""
    old = model.get_parameter(names[0])
    if not old.is_meta:
        return
    assert isinstance(old, DTensor)
    mesh = old.device_mesh
    with torch.no_grad():
        rows = torch.empty_like(old.to_local(), device=mesh.device_type)
    whole = DTensor.from_local(
        rows, mesh, old.placements, shape=old.shape, stride=old.stride(), run_check=False
    )
    new = nn.Parameter(whole, requires_grad=old.requires_grad)
    for name in names:
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, new)


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
