"""How many frames and audio tokens a clip has: what the processor and the model both go by."""

from __future__ import annotations

from typing import Any

MEL_HOP = 160


def count_mel_frames(num_samples: int) -> int:
    """Return how many hops of 10 ms a clip touches."""
    return max(1, -(-num_samples // MEL_HOP))


def count_frames(num_mel_frames: int, audio: dict[str, Any]) -> int:
    """Return how many frames the audio tower gives for a clip of so many mel frames."""
    positions = audio["num_positions"]
    before = max(1, -(-num_mel_frames // (2 * positions))) - 1
    if audio["keep_silence"]:
        return int((before + 1) * positions)
    last = -(-(num_mel_frames - before * 2 * positions) // 2)
    if audio["pairs"]:
        return int(max(1, before * max(1, positions // 2) + last // 2))
    return int(before * positions + last)


def count_tokens(num_frames: int, adapter: dict[str, Any]) -> int:
    """Return how many audio tokens the adapter makes of so many frames."""
    return _COUNTS[adapter["name"]](num_frames, adapter)


def _mlp(frames: int, adapter: dict[str, Any]) -> int:
    size, window = adapter["downsample"], adapter["window_frames"]
    if window is not None:
        frames += (frames - 1) // window * (-window % size)
    groups = max(1, frames // size) if adapter["remainder"] == "drop" else -(-frames // size)
    return int(groups + (2 if adapter["boundaries"] else 0))


def _conv(frames: int, adapter: dict[str, Any]) -> int:
    for kernel, stride in zip(adapter["kernel_sizes"], adapter["strides"], strict=True):
        if adapter["padding"] == "fill":
            frames = max(0, -((kernel - frames) // stride)) + 1
        else:
            frames = (frames + 2 * (kernel // 2) - kernel) // stride + 1
    return frames


def _qformer(frames: int, adapter: dict[str, Any]) -> int:
    window, queries = adapter["window"], int(adapter["num_queries"])
    if window is None:
        return queries
    drops = adapter["remainder"] == "drop"
    return queries * int(max(1, frames // window) if drops else -(-frames // window))


def _conv_transformer(frames: int, adapter: dict[str, Any]) -> int:
    kernels = [adapter["kernel_size"]] * len(adapter["strides"])
    return _conv(frames, {"kernel_sizes": kernels, "strides": adapter["strides"], "padding": "half"})


def _tltr(frames: int, adapter: dict[str, Any]) -> int:
    return int(-(-frames // adapter["downsample"]))


_COUNTS = {
    "conv": _conv,
    "conv_transformer": _conv_transformer,
    "mlp": _mlp,
    "qformer": _qformer,
    "tltr": _tltr,
}
