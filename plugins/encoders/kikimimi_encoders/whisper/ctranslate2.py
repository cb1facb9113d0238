"""Names and sizes of Whisper in CTranslate2's format (faster-whisper), turned into those of transformers."""

import re

from torch import Tensor

from kikimimi import CTranslate2File, WeightsError, WeightsFiles

MODEL = "model.bin"


def is_ctranslate2(files: WeightsFiles) -> bool:
    """Whether the files are a CTranslate2 model rather than a transformers one."""
    return MODEL in files.files and not files.names("*.safetensors")


def open_whisper(files: WeightsFiles) -> CTranslate2File:
    """Open a CTranslate2 Whisper.

    Raises:
        WeightsError: It is damaged, or another model than Whisper.
    """
    file = CTranslate2File(files, MODEL)
    if file.specification != "WhisperSpec":
        raise WeightsError(f"{files.source}: is a CTranslate2 '{file.specification}', not a 'WhisperSpec'")
    return file


def encoder_sizes(file: CTranslate2File) -> dict[str, int]:
    """Return the encoder's sizes under the names of transformers' `WhisperConfig`."""
    dim, num_mels, _ = file.shapes["encoder/conv1/weight"]
    return {
        "d_model": dim,
        "encoder_layers": _num_layers(file, "encoder"),
        "encoder_attention_heads": file.number("encoder/num_heads"),
        "encoder_ffn_dim": file.shapes["encoder/layer_0/ffn/linear_0/weight"][0],
        "num_mel_bins": num_mels,
        "max_source_positions": file.shapes["encoder/position_encodings/encodings"][0],
    }


def model_sizes(file: CTranslate2File) -> dict[str, int]:
    """Return the sizes of encoder and decoder under the names of transformers' `WhisperConfig`."""
    return {
        **encoder_sizes(file),
        "decoder_layers": _num_layers(file, "decoder"),
        "decoder_attention_heads": file.number("decoder/num_heads"),
        "decoder_ffn_dim": file.shapes["decoder/layer_0/ffn/linear_0/weight"][0],
        "max_target_positions": file.shapes["decoder/position_encodings/encodings"][0],
        "vocab_size": file.shapes["decoder/embeddings/weight"][0],
    }


def encoder_state(file: CTranslate2File) -> dict[str, Tensor]:
    """Return the encoder's tensors, float32, under the names of transformers' `WhisperEncoder`."""
    names = {
        "encoder/conv1/weight": "conv1.weight",
        "encoder/conv1/bias": "conv1.bias",
        "encoder/conv2/weight": "conv2.weight",
        "encoder/conv2/bias": "conv2.bias",
        "encoder/position_encodings/encodings": "embed_positions.weight",
        **_norm("encoder/layer_norm", "layer_norm"),
    }
    for i in range(_num_layers(file, "encoder")):
        names |= _layer(f"encoder/layer_{i}", f"layers.{i}")
    return _split(file.tensors(list(names)), names)


def model_state(file: CTranslate2File) -> dict[str, Tensor]:
    """Return all tensors, float32, under the names of `WhisperForConditionalGeneration`."""
    names = {
        "decoder/embeddings/weight": "embed_tokens.weight",
        "decoder/position_encodings/encodings": "embed_positions.weight",
        **_norm("decoder/layer_norm", "layer_norm"),
    }
    for i in range(_num_layers(file, "decoder")):
        source, target = f"decoder/layer_{i}", f"layers.{i}"
        names |= _layer(source, target)
        names |= _norm(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
        names |= _linear(f"{source}/attention/linear_0", f"{target}.encoder_attn.q_proj")
        names |= _linear(f"{source}/attention/linear_1", f"{target}.encoder_attn.k_proj|v_proj")
        names |= _linear(f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
    decoder = _split(file.tensors(list(names)), names)
    return {
        **{f"model.encoder.{name}": value for name, value in encoder_state(file).items()},
        **{f"model.decoder.{name}": value for name, value in decoder.items()},
    }


def _num_layers(file: CTranslate2File, side: str) -> int:
    numbers = {found[1] for name in file.shapes if (found := re.match(rf"{side}/layer_(\d+)/", name))}
    return len(numbers)


def _layer(source: str, target: str) -> dict[str, str]:
    return {
        **_norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm"),
        **_linear(f"{source}/self_attention/linear_0", f"{target}.self_attn.q_proj|k_proj|v_proj"),
        **_linear(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj"),
        **_norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm"),
        **_linear(f"{source}/ffn/linear_0", f"{target}.fc1"),
        **_linear(f"{source}/ffn/linear_1", f"{target}.fc2"),
    }


def _norm(source: str, target: str) -> dict[str, str]:
    return {f"{source}/gamma": f"{target}.weight", f"{source}/beta": f"{target}.bias"}


def _linear(source: str, target: str) -> dict[str, str]:
    return {f"{source}/weight": f"{target}.weight", f"{source}/bias": f"{target}.bias"}


def _split(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Rename, and cut the fused projections (`q_proj|k_proj|v_proj`) into their rows."""
    state: dict[str, Tensor] = {}
    for source, target in names.items():
        module, _, projections = target.rpartition(".")[0].rpartition(".")
        kind = target.rpartition(".")[2]
        fused = projections.split("|")
        for name, rows in zip(fused, tensors[source].chunk(len(fused)), strict=True):
            key = f"{module}.{name}.{kind}" if module else f"{name}.{kind}"
            if name != "k_proj" or kind != "bias":
                state[key] = rows
            elif rows.any():
                raise WeightsError(f"'{source}' holds a bias of the keys, which Whisper does not have")
    return state
