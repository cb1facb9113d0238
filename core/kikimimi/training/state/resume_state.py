"""What a stage goes on from: nested state as JSON and tensors, and what has to be in it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kikimimi.training.log_interval import LogInterval
from kikimimi.training.state.random_state import check_random_state
from kikimimi.weights.tensors import StoredTensor

RESUME_STATE = "resume.json"
"""Name of the file that holds what is no tensor."""
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
_POSITION = {"consumed", "epoch", "micro_batch", "order"}


def encode_state(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn nested state into JSON; tensors go to `tensors`, and what JSON lacks is tagged.

    Raises:
        TypeError: The state holds what neither can.
    """
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach()
        return {"$tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"$tuple": [encode_state(item, tensors) for item in value]}
    if isinstance(value, list):
        return [encode_state(item, tensors) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode_state(item, tensors) for key, item in value.items()}
        return {"$items": [[encode_state(k, tensors), encode_state(v, tensors)] for k, v in value.items()]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def decode_state(value: Any, tensors: Mapping[str, StoredTensor]) -> Any:
    """Turn what `encode_state` has made back, but of tensors only where they are."""
    if isinstance(value, list):
        return [decode_state(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(decode_state(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {decode_state(k, tensors): decode_state(v, tensors) for k, v in value["$items"]}
    return {key: decode_state(item, tensors) for key, item in value.items()}


def read_stored(value: Any) -> Any:
    """Replace stored tensors by their values, in memory of their own."""
    if isinstance(value, StoredTensor):
        return value.whole().clone()
    if isinstance(value, dict):
        return {key: read_stored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(read_stored(item) for item in value)
    return value


def check_state(state: Mapping[str, Any], step: int, *, hashed: bool) -> None:
    """Check that a resume state has all that a stage goes on from: what is missing would silently begin anew.

    Args:
        state: Resume state.
        step: Step that the checkpoint is of, by its name.
        hashed: Whether the state is as it was written, by its hash. Only then a parameter may have no
            moments: one that took no part.

    Raises:
        ValueError: Something is missing, or of another step.
        KeyError: Likewise.
        TypeError: Likewise.
    """
    if type(state["global_step"]) is not int or not isinstance(state["pytorch-lightning_version"], str):
        raise ValueError(f"{RESUME_STATE} is not that of a checkpoint")
    if state["global_step"] != step:
        raise ValueError(f"{RESUME_STATE} is of step {state['global_step']}")
    (optimiser,), (schedule,) = state["optimizer_states"], state["lr_schedulers"]
    rates = [float(group["lr"]) for group in optimiser["param_groups"]]
    for group in optimiser["param_groups"]:
        if not all(0 <= float(value) <= 1 for value in (*group["betas"], group["eps"])):
            raise ValueError("the options of its optimiser are damaged")
        if not group["params"] or len(group["betas"]) != 2 or float(group["weight_decay"]) < 0:
            raise ValueError("the options of its optimiser are damaged")
    taken = set()
    for moments in optimiser["state"].values():
        if not moments.keys() >= _MOMENTS or not isinstance(moments["exp_avg"], StoredTensor):
            raise ValueError("it lacks the moments of a parameter")
        if getattr(moments["exp_avg_sq"], "shape", None) != moments["exp_avg"].shape:
            raise ValueError("the moments of a parameter do not fit together")
        taken.add(float(moments["step"].whole()))
        if not 1 <= max(taken) <= step:
            raise ValueError("the moments of a parameter are of another step")
    # With fp16, steps are left out: every one until now, maybe.
    if not rates or not (taken or "MixedPrecision" in state):
        raise ValueError("it lacks the state of the optimiser")
    if "MixedPrecision" not in state and max(taken) != step:
        raise ValueError("its moments are of another step: files of two are mixed")
    numbers = [number for group in optimiser["param_groups"] for number in group["params"]]
    if numbers != list(range(len(numbers))) or not optimiser["state"].keys() <= set(numbers):
        raise ValueError("the parameters of its optimiser are damaged")
    if not hashed and optimiser["state"] and len(optimiser["state"]) < len(numbers):
        raise ValueError("it lacks the moments of a parameter")
    if {len(schedule[name]) for name in ("base_lrs", "_last_lr", "lr_lambdas")} != {len(rates)}:
        raise ValueError("its schedule is not that of its optimiser")
    if not type(schedule["last_epoch"]) is type(schedule["_step_count"]) is int:
        raise ValueError("it lacks the step of the schedule")
    if not isinstance(state["callbacks"], dict):
        raise ValueError("the states of its callbacks are damaged")
    loops = state["loops"]["fit_loop"]
    (position,) = loops["state_dict"]["combined_loader"]
    if not position.keys() >= _POSITION or not loops["epoch_loop.batch_progress"]["total"]:
        raise ValueError("it lacks the position in the data")
    _check_progress(state["loops"])
    LogInterval().restore(state["unlogged"], 0, len(state["unlogged"]))
    if not all([*map(type, counts)] == [int] * 3 for counts in state["faults"]):
        raise ValueError("its counts of faults are damaged")
    ranks = {len(state[name]) for name in ("random", "faults", "unlogged")}
    if len(ranks) != 1 or ranks == {0}:
        raise ValueError("its random generators, faults and log are not of the same ranks")
    for generators in state["random"]:
        check_random_state(generators)


def _check_progress(loops: Mapping[str, Any]) -> None:
    """Check that Lightning's loops hold counts where they count."""
    for name, value in loops.items():
        if name in ("total", "current"):
            if {*map(type, value.values())} != {int}:
                raise ValueError("the counts of its loops are damaged")
        elif isinstance(value, dict) and not name.endswith("state_dict"):
            _check_progress(value)
