"""How many frames and audio tokens a clip has: what the processor and the model both go by."""

from __future__ import annotations

from typing import Any

MEL_HOP = 160
WAVEFORMS = ("hubert", "wav2vec2", "wavlm")
"""Audio towers that take samples."""


def count_steps(num_samples: int, audio: dict[str, Any]) -> int:
    """Return how many steps of a clip the audio tower takes: mel frames, most often; or samples."""
    kind = audio["kind"]
    if kind in WAVEFORMS:
        return int(max(num_samples, audio["min_samples"]))
    if kind == "granite_speech":
        return int((max(257, num_samples) // MEL_HOP + 1) // 2)
    if kind == "parakeet":
        return max(2, num_samples // MEL_HOP)
    if kind == "phi4_multimodal":
        return max(0, num_samples - 400) // MEL_HOP + 1
    if kind == "qwen3_omni":
        return max(1, num_samples // MEL_HOP)
    if kind == "wav2vec2_bert":
        return ((max(560, num_samples) - 400) // MEL_HOP + 1) // 2
    return max(1, -(-num_samples // MEL_HOP))  # hops of 10 ms that the clip touches


def count_frames(num_steps: int, audio: dict[str, Any]) -> int:
    """Return how many frames the audio tower gives for a clip of so many steps."""
    kind = audio["kind"]
    if kind == "whisper":
        return _whisper(num_steps, audio)
    if kind == "qwen2_5_omni":
        return max(1, -(-num_steps // 2) // 2)
    if kind == "qwen3_omni":
        chunks, rest = divmod(num_steps, 100)
        for _ in range(3):
            rest = -(-rest // 2)
        return chunks * 13 + rest
    if kind == "phi4_multimodal":
        return int(-(-num_steps // audio["tower"]["time_reduction"]))
    for kernel, stride, padding in audio.get("convolutions", ()):
        num_steps = (num_steps + 2 * padding - kernel) // stride + 1
    return num_steps


def _whisper(num_mel_frames: int, audio: dict[str, Any]) -> int:
    positions = audio["num_positions"]
    before = max(1, -(-num_mel_frames // (2 * positions))) - 1
    if audio["keep_silence"]:
        return int((before + 1) * positions)
    last = -(-(num_mel_frames - before * 2 * positions) // 2)
    if audio["pairs"]:
        return int(max(1, before * max(1, positions // 2) + last // 2))
    return int(before * positions + last)


def count_tokens(num_frames: int, adapter: dict[str, Any]) -> int:
    """Return how many audio tokens the adapter makes of so many frames.

    Where that depends on what is heard, it is 1: a placeholder that the model puts them in place of.
    """
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


def _heard(frames: int, adapter: dict[str, Any]) -> int:
    return 1


_COUNTS = {
    "alignformer": _heard,
    "cif": _heard,
    "conv": _conv,
    "conv_transformer": _conv_transformer,
    "ctc": _heard,
    "mlp": _mlp,
    "qformer": _qformer,
    "tltr": _tltr,
}
