"""Low-rank adaptation of any component, through peft, everywhere or only where audio is present."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kikimimi.console.words import listing
from kikimimi.errors import RecipeError
from kikimimi.weights.files import load_state
from kikimimi.weights.find import find_weights

if TYPE_CHECKING:
    from kikimimi.recipe import LoRA


UPDATES = "adapter_model.safetensors"
"""Name of the file in which peft keeps low-rank updates."""
_UNREAD = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")
"""Settings of peft that change what its matrices mean, or add to them."""


class AudioGate:
    """Lets low-rank updates act in some sequences and not in others.

    It is told which before each call of the LLM, and hooked to each update's last layer. What it blocks is
    exactly zero: a blocked sequence is what the LLM makes of it without any update.
    """

    def __init__(self) -> None:
        self._open: Tensor | bool = True
        self._lengths: Tensor | None = None

    def set(self, is_open: Tensor | bool, lengths: Tensor | None = None) -> None:
        """Say where updates act.

        Args:
            is_open: (B,) bool, one per sequence; or one answer for all sequences.
            lengths: (B,) positions of each sequence in a pack; needed where there is one answer for each.
        """
        self._open, self._lengths = is_open, lengths

    def state(self) -> tuple[Tensor | bool, Tensor | None]:
        """Return what `set` was last told."""
        return self._open, self._lengths

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Zero an update where the gate is shut; a forward hook.

        The update is (B, length, width) of padded sequences, or (1, N, width) or (N, width) of a pack.
        """
        if isinstance(self._open, bool):
            return output if self._open else torch.zeros_like(output)
        assert self._lengths is not None
        if output.dim() == 3 and output.shape[0] == len(self._open):
            mask = self._open[:, None, None]
        else:
            mask = self._open.repeat_interleave(self._lengths)[:, None]
            if output.shape[-2] != len(mask):
                raise ValueError(
                    f"lora.modality: audio cannot tell the sequences of an update of shape "
                    f"{tuple(output.shape)} apart: this LLM does not run them as a pack or as a padded batch"
                )
        return torch.where(mask, output, 0.0)


def add_lora(component: nn.Module, lora: LoRA, *, where: str) -> AudioGate | None:
    """Put low-rank matrices beside the linear layers whose names end with one of `lora.targets`.

    Source: Hu et al. 2021, arXiv 2106.09685; peft's implementation, in place. The matrices are fp32, also
    beside weights of half precision, as an optimiser needs them.

    Returns:
        The gate of updates that act only where audio is present; None for those that act everywhere.

    Raises:
        RecipeError: No layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model  # half a second, for those that ask for updates

    linears = {name.rsplit(".", 1)[-1] for name, m in component.named_modules() if isinstance(m, nn.Linear)}
    missing = [target for target in lora.targets if target not in linears]
    if missing:
        raise RecipeError(
            [
                f"{where}.lora.targets: no linear layer is called {', '.join(missing)}. "
                f"Layers: {listing(linears)}"
            ]
        )
    alpha: Any = lora.alpha  # peft annotates an int; it only divides by the rank
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
    )
    with warnings.catch_warnings():
        # peft remarks on tied embeddings that it leaves alone here.
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, component)
    for name, parameter in component.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    if lora.modality == "any":
        return None
    gate = AudioGate()
    for name, module in component.named_modules():
        if name.endswith(".lora_B.default"):
            module.register_forward_hook(gate)
    return gate


def load_updates(component: nn.Module, lora: LoRA, *, where: str) -> None:
    """Fill low-rank matrices from files that peft has written (`adapter_model.safetensors`).

    A layer is found by the end of its name: what stands before it depends on what peft was applied to.

    Raises:
        WeightsError: The source cannot be read, or its layers or shapes are others.
        RecipeError: Its settings say another rank or alpha.
    """
    files = find_weights(lora.weights)
    assert files is not None
    if "adapter_config.json" in files.files:
        _check_settings(lora, files.read_json("adapter_config.json"), f"{where}.lora")
    held = replace(files, files={UPDATES: files.parts(UPDATES)})
    own = {name: p for name, p in component.named_parameters() if ".lora_" in name}
    ends: dict[str, list[str]] = {}
    for name in own:
        levels = name.replace(".default.", ".").split(".")
        for start in range(len(levels)):
            ends.setdefault(".".join(levels[start:]), []).append(name)
    state = {}
    for name, tensor in held.state_dict().items():
        levels = name.split(".")
        tails = (".".join(levels[start:]) for start in range(len(levels)))
        fitting: list[str] = next((ends[tail] for tail in tails if tail in ends), [])
        state[fitting[0] if len(fitting) == 1 else name] = tensor.float()
    load_state(
        component, state, source=lora.weights, ignore=[n for n in component.state_dict() if n not in own]
    )


def _check_settings(lora: LoRA, settings: dict[str, Any], where: str) -> None:
    problems = [
        f"{where}.{option}: is {ours:g}, and {lora.weights} was trained with {settings[name]}"
        for option, name, ours in (("rank", "r", lora.rank), ("alpha", "lora_alpha", lora.alpha))
        if settings.get(name, ours) != ours
    ]
    problems += [
        f"{where}.weights: {lora.weights} has {name}: {settings[name]!r}, which is not read here"
        for name in _UNREAD
        if settings.get(name)
    ]
    if problems:
        raise RecipeError(problems)


def has_updates(module: nn.Module) -> bool:
    """Tell whether a module is a layer that peft has put low-rank updates beside."""
    peft: Any = sys.modules.get("peft")  # where nothing has imported it, nothing has updates
    return peft is not None and isinstance(module, peft.tuners.lora.LoraLayer)
