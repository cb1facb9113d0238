"""What `benchmarks/gpu.sh` has measured, as the generated part of performance.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
_GIGA, _TERA = 1e9, 1e12
_TRAINING = {
    "adapter": "adapter trains",
    "lora": "adapter and LoRA train",
    "fsdp": "adapter, FSDP2 on one rank",
}
"""Sections about the training step, and how the page calls them."""


def performance_reference(folder: Path = RESULTS) -> str:
    """Return what the files of results at full size say, or that there are none."""
    held = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    lines = [line for results in held if results["size"] == "full" for line in _card(results)]
    return "\n".join(["", *(lines or ["Not measured yet: no file of results is there.", ""]), ""])


def _card(results: Mapping[str, Any]) -> Iterator[str]:
    sections: Mapping[str, Any] = results["sections"]
    found = {name: made["result"] for name, made in sections.items() if "result" in made}
    yield from [f"## {results['card']}", ""]
    commit = results["commit"] or "not known"
    yield from [f"Measured {results['measured'][:10]}, commit {commit[:12]}.", ""]
    if "machine" in found:
        yield from [_machine(found["machine"]), ""]
    if rows := [(_TRAINING[name], found[name]) for name in _TRAINING if name in found]:
        yield from _training(rows)
    yield from _others(found)
    for pack, measured in found.get("attention", {}).items():
        yield from _attention(pack, measured)
    if failed := {name: made["error"] for name, made in sections.items() if "error" in made}:
        yield from ["Failed:", ""]
        for name, error in failed.items():
            yield f"- `{name}`: `{error.strip().splitlines()[-1][:200]}`"
        yield ""


def _machine(made: Mapping[str, Any]) -> str:
    rate = f"{made['matrix_rate']['measured'] / _TERA:,.0f} TFLOP/s in matrix products of bf16"
    copies = f"{made['bytes_per_second'] / _TERA:.2f} TB/s of memory copied (read and written)"
    versions = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    return f"{rate}, {copies}. {versions}, CUDA {made['cuda']}."


def _training(rows: list[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    yield from [
        "| training step | positions | step [s] | positions/s | targets/s | audio s/s | MFU "
        "| MFU of measured rate | peak memory [GB] | `plan` says [GB] |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, made in rows:
        cells = [
            name,
            f"{made['positions']:,}",
            f"{made['step_seconds']:.3f}",
            f"{made['positions_per_second']:,.0f}",
            f"{made['targets_per_second']:,.0f}",
            f"{made['audio_seconds_per_second']:,.0f}",
            _percent(made["mfu"]),
            _percent(made["mfu_of_measured"]),
            _gigabytes(made["peak_memory"]),
            _gigabytes(made["planned_memory"]),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _others(found: Mapping[str, Any]) -> Iterator[str]:
    said = []
    if made := found.get("generation"):
        said.append(
            f"Generation: {made['tokens_per_second']:,.0f} tokens/s, {made['prompts']} prompts together "
            f"({made['packing_seconds']:.3f} s to encode and pack them)."
        )
    if made := found.get("compile"):
        steps = made["step_seconds"]
        said.append(
            f"`torch.compile` of each block: {steps['off']:.3f} s a step without, {steps['on']:.3f} s with; "
            f"the first step takes {made['first_step_seconds']:.0f} s."
        )
    if made := found.get("resume"):
        same = made["same_losses"] and made["same_weights"]
        said.append(f"A run that goes on ends {'with the same' if same else 'WITH OTHER'} weights.")
    if made := found.get("parity"):
        half, cpu = made["bf16_against_fp32"], made["fp32_against_cpu"]
        said.append(
            f"bf16 against fp32: loss off by {half['loss']:.1e}, gradient by {half['gradient']:.1e} "
            f"(relative); fp32 against a CPU: {cpu['loss']:.1e} and {cpu['gradient']:.1e}."
        )
    if made := found.get("tests"):
        said.append(
            f"`pytest -m gpu`: {made['passed']} passed, {made['failed']} failed, {made['skipped']} skipped."
        )
    if said:
        yield from [*(f"- {line}" for line in said), ""]


def _attention(pack: str, measured: Mapping[str, Any]) -> Iterator[str]:
    lengths = ", ".join(map(str, measured["lengths"]))
    yield from [f"Attention over a pack of {lengths} ({pack}):", ""]
    yield from ["| method | forward [ms] | forward and backward [ms] | |", "|---|---|---|---|"]
    for name, made in measured["methods"].items():
        times = [
            f"{1000 * made[key]:.2f}" if key in made else "" for key in ("forward_seconds", "both_seconds")
        ]
        problem = f"`{made['error'].splitlines()[0][:120]}`" if "error" in made else ""
        yield f"| `{name}` | {' | '.join(times)} | {problem} |"
    yield ""


def _percent(share: float | None) -> str:
    return "not known" if share is None else f"{share:.0%}"


def _gigabytes(number: float | None) -> str:
    return "not known" if number is None else f"{number / _GIGA:.1f}"
