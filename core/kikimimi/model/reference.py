"""The model as it was when a stage began, for objectives that compare with it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from kikimimi.model.lora import has_updates
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.stand_in import evaluating


class Reference:
    """Turns a model into what it was, and back, without a second copy of what stays as it is.

    Low-rank updates that were zero at the start are switched off. Of everything else that the stage trains a
    copy is kept, which changes places with the trained values for the time of the reference's passes.

    Attributes:
        copied: Number of values that are kept twice, on this rank.
    """

    def __init__(self, model: SpeechLM, names: Iterable[str]) -> None:
        self._model = model
        wanted = set(names)
        self._off: list[Any] = []
        for path, module in model.named_modules():
            if has_updates(module) and _is_zero(module):
                self._off.append(module)
                layer = model.get_submodule(path)
                wanted -= {f"{path}.{name}" for name, _ in layer.named_parameters() if "lora_" in name}
        self._copies: list[tuple[nn.Parameter, Tensor]] = [
            (parameter, _local(parameter).clone())
            for name, parameter in model.named_parameters()
            if name in wanted
        ]
        self.copied = sum(copy.numel() for _, copy in self._copies)

    def to(self, device: torch.device) -> None:
        """Move the copies to where the model is."""
        self._copies = [(parameter, copy.to(device)) for parameter, copy in self._copies]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Make the model what it was, in eval mode; afterwards it trains on as if nothing had been."""
        model = self._model
        gate = model.gate.state() if model.gate is not None else None
        self._exchange()
        for layer in self._off:
            layer._disable_adapters = True  # peft's own method would change what requires gradients, too
        try:
            with evaluating(model):
                yield
        finally:
            for layer in self._off:
                layer._disable_adapters = False
            self._exchange()
            if model.gate is not None and gate is not None:
                model.gate.set(*gate)

    def _exchange(self) -> None:
        """Let trained values and copies change places, past autograd's account: backward sees no change."""
        # Autocast keeps what it converted of a parameter, and does not see that its values are others.
        torch.clear_autocast_cache()
        with torch.no_grad():
            for parameter, copy in self._copies:
                local = _local(parameter)
                held = local.clone()
                local.copy_(copy)
                copy.copy_(held)
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # what FSDP had gathered is of before the exchange


def _local(parameter: nn.Parameter) -> Tensor:
    """Return this rank's values; a write to them does not count as a change of the parameter."""
    data = parameter.data
    return data.to_local() if isinstance(data, DTensor) else data


def _is_zero(layer: Any) -> bool:
    """Whether a low-rank update changes nothing: its second matrix is still as it was made."""
    matrices = [_local(module.weight) for module in layer.lora_B.values()]
    return bool(matrices) and not any(bool(matrix.any()) for matrix in matrices)
