"""What an encoder is called in an export: its settings, its tensors, and its feature extractor."""

from __future__ import annotations

from typing import Any

from kikimimi.model.speech_lm import SpeechLM
from kikimimi.published.auto_map.audio_counts import WAVEFORMS

ENCODERS = (
    "granite_speech",
    "hubert",
    "parakeet",
    "phi4_multimodal",
    "qwen2_5_omni",
    "qwen2_audio",
    "qwen3_omni",
    "wav2vec2",
    "wav2vec2_bert",
    "wavlm",
    "whisper",
)
"""Encoders whose code is there."""
LONGEST_SECONDS = 120
"""Longest clip that an export takes whose encoder has no bound of its own: vLLM has to know one."""
_SAMPLE_RATE = 16_000
_OMNI = ("qwen2_5_omni", "qwen3_omni")
_POSITIONS = {
    "pos_conv_embed.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    "pos_conv_embed.bias": "encoder.pos_conv_embed.conv.bias",
}
_INNER = ("layers", "layer_norm")
"""What lies below `encoder.` in the models that learned speech from unlabelled waveforms."""


def audio_settings(model: SpeechLM) -> dict[str, Any]:
    """Return what stands in `audio_config`: see `audio_towers` and `audio_counts`."""
    encoder: Any = model.encoder
    options = encoder.config
    seconds = encoder.max_seconds or LONGEST_SECONDS
    settings: dict[str, Any] = {
        "layers": list(encoder.taps.layers),
        "combine": options.combine,
        "max_samples": round(seconds * _SAMPLE_RATE),
    }
    name, sizes = encoder.name, encoder.sizes
    if name in ("qwen2_audio", "whisper"):
        return settings | {
            "kind": "whisper",
            "dim": sizes.dim,
            "num_heads": sizes.num_heads,
            "ffn_dim": sizes.ffn_dim,
            "num_mels": sizes.num_mels,
            "num_positions": sizes.num_positions,
            "final_norm": encoder.model.layer_norm is not None,
            "pairs": encoder.pairs,
            "cuts": encoder.cuts,
            "pad": options.pad,
            "windows": options.windows,
            "keep_silence": getattr(options, "keep_silence", False),
        }
    settings["kind"] = name
    if name in _OMNI:
        theirs = {there: getattr(sizes, ours) for ours, there in encoder.names.items()}
        settings["tower"] = theirs | encoder.expected | {"max_source_positions": 1500}
        # 300 s of silence are what Qwen2.5-Omni's features are computed in.
        return settings | {"num_positions": 15_000, "cuts": "frames", "pad": "none"}
    tower = {key: value for key, value in sizes.to_dict().items() if not key.startswith("_")}
    if name in WAVEFORMS or name == "wav2vec2_bert":
        tower |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}  # without them no mask is built
    if name in WAVEFORMS:
        settings["min_samples"] = encoder.min_samples
        settings["convolutions"] = [(kernel, stride, 0) for kernel, stride in encoder.convolutions]
    if name == "parakeet":
        kernel = encoder.kernel_size
        settings["convolutions"] = [(kernel, encoder.stride, (kernel - 1) // 2)] * encoder.num_strides
    return settings | {"tower": tower}


def feature_extractor(model: SpeechLM, audio: dict[str, Any]) -> Any:
    """Return transformers' feature extractor of an encoder."""
    import transformers

    encoder: Any = model.encoder
    kind = audio["kind"]
    if kind in WAVEFORMS:
        return transformers.Wav2Vec2FeatureExtractor(do_normalize=encoder.normalise)
    if kind == "wav2vec2_bert":
        return transformers.SeamlessM4TFeatureExtractor()
    if kind == "granite_speech":
        return transformers.GraniteSpeechFeatureExtractor(n_mels=encoder.num_mels)
    if kind == "parakeet":
        return transformers.ParakeetFeatureExtractor(feature_size=encoder.num_mels)
    if kind == "phi4_multimodal":
        return transformers.Phi4MultimodalFeatureExtractor(
            feature_size=encoder.num_mels, audio_compression_rate=encoder.subsampling
        )
    seconds = 30 if kind == "qwen3_omni" else max(1, audio["max_samples"] // _SAMPLE_RATE)
    return transformers.WhisperFeatureExtractor(feature_size=encoder.sizes.num_mels, chunk_length=seconds)


def encoder_name(model: SpeechLM, name: str) -> str:
    """Return the name of a tensor of an encoder's `model` in an export, below `encoder.`."""
    kind = getattr(model.encoder, "name", "")
    if kind in ("qwen2_audio", "whisper"):
        return name
    if kind in WAVEFORMS or kind == "wav2vec2_bert":
        name = _POSITIONS.get(name, f"encoder.{name}" if name.partition(".")[0] in _INNER else name)
    return f"model.{name}"
