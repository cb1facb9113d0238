"""A model in pieces: every rank holds a part of each parameter, frozen ones too (FSDP2).

The blocks that components name are gathered one by one as they run, and everything outside blocks
(embeddings, the output head) at the start of a pass. All ranks have to run the same blocks in the same order.

Source: `torch.distributed.fsdp.fully_shard`, Zhao et al. 2023 (arXiv 2304.11277).
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from kikimimi.errors import RequestError
from kikimimi.model.speech_lm import SpeechLM


def shard(model: SpeechLM, mesh: DeviceMesh, precision: str) -> list[nn.Module]:
    """Spread a model over ranks, in place. Parameters on the meta device are given memory, and no values.

    Args:
        model: Assembled, frozen as the stage wants it.
        mesh: The ranks, in one dimension.
        precision: The forward and backward pass's, as a recipe spells it. With bf16, parameters are gathered
            as bf16 and gradients are summed in fp32.

    Returns:
        The blocks that are gathered as one.

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
    for method in ("pack", "encode", "embed", "generate_ids"):
        register_fsdp_forward_method(model, method)
    return blocks


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
