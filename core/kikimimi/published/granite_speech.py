"""Granite-Speech 3.x (Saon et al. 2025, arXiv 2505.08699; `GraniteSpeechForConditionalGeneration`)."""

from typing import Any

from kikimimi.errors import WeightsError
from kikimimi.published.model import Expressed, PublishedModel, published_updates
from kikimimi.published.served import (
    Files,
    Format,
    Trained,
    llm_problems,
    needs,
    part_problems,
    prefixed,
    text_settings,
    whole_config,
)

_FRAMES_A_SECOND = 50
_TOKEN = "<|audio|>"
_CLASS = "GraniteSpeechForConditionalGeneration"


def express_granite_speech(model: PublishedModel) -> Expressed:
    """Return a Granite-Speech's parts: Conformer, a Q-Former over windows, and updates of the LLM for audio.

    Raises:
        WeightsError: The queries do not divide its windows.
    """
    config, projector = model.config, model.part("adapter").config
    window, downsample = config.get("window_size", 15), config.get("downsample_rate", 5)
    queries, rest = divmod(window, downsample)
    if rest:
        raise WeightsError(
            f"{model.source}: config.json: downsample_rate ({downsample}) does not divide window_size "
            f"({window})"
        )
    llm: dict[str, Any] = {"name": "causal_lm", "weights": model.source}  # its template takes clips in texts
    if config.get("has_lora_adapter"):
        llm["lora"] = published_updates(model, "adapter_model.safetensors", modality="audio")
    return Expressed(
        encoder={"name": "granite_speech", "weights": model.source},
        adapter={
            "name": "qformer",
            "weights": model.source,
            "num_queries": queries,
            "window_seconds": window / _FRAMES_A_SECOND,
            "remainder": "pad",
            "num_layers": projector["num_hidden_layers"],
            "hidden_dim": projector["hidden_size"],
            "num_heads": projector["num_attention_heads"],
            "ffn_dim": projector["intermediate_size"],
            "cross_attention_frequency": projector["cross_attention_frequency"],
        },
        llm=llm,
        task={"name": "asr", "request": "can you transcribe the speech into a written format?"},
    )


def _problems(trained: Trained) -> list[str]:
    recipe = trained.recipe
    found = part_problems("encoder", recipe.encoder, ["granite_speech"])
    sizes: Any = getattr(trained.model.encoder, "sizes", None)
    if not found:
        layers = recipe.encoder.config.layers
        if layers is not None and list(layers) != [sizes.num_layers]:
            found.append(f"encoder.layers is {list(layers)}, needs {sizes.num_layers}, the last alone")
        if sizes.num_layers < 2:
            found.append(f"the encoder has {sizes.num_layers} layer, needs 2: a CTC head follows the middle")
    found += part_problems("adapter", recipe.adapter, ["qformer"]) or _adapter_problems(trained)
    found += llm_problems(trained, ["granite"], _TOKEN, gated=trained.keep_lora)
    lora = recipe.llm.lora
    if trained.keep_lora and lora is not None and lora.modality != "audio":
        found.append(
            f"--lora keep: llm.lora.modality is {lora.modality}, needs audio: the class switches updates off "
            "where there is none (--lora merge fits)"
        )
    return found


def _adapter_problems(trained: Trained) -> list[str]:
    adapter: Any = trained.model.adapter
    options = adapter.config
    found = needs("adapter", options, remainder="pad", query_norm=True, output_norm=False)
    if adapter.window is None:
        found.append("adapter.window_seconds is null, needs a length")
    elif adapter.window // _downsample(adapter) != options.num_queries:
        found.append(
            f"adapter.num_queries is {options.num_queries}, which no downsample_rate makes of windows of "
            f"{adapter.window} frames"
        )
    return found


def _downsample(adapter: Any) -> int:
    return max(1, int(adapter.window) // int(adapter.config.num_queries))


def _files(trained: Trained) -> Files:
    adapter, sizes = trained.model.adapter, trained.model.encoder.sizes
    options: Any = adapter.config
    token, lora = trained.placeholder(_TOKEN), trained.recipe.llm.lora
    tensors = {
        **prefixed("encoder.", trained.encoder_tensors()),
        **prefixed("projector.", {_theirs(n): t for n, t in trained.adapter_tensors({}).items()}),
        **prefixed("language_model.", trained.llm_tensors()),
    }
    window, downsample = int(adapter.window), _downsample(adapter)  # type: ignore[arg-type]
    config = whole_config(
        "GraniteSpeechConfig",
        architectures=[_CLASS],
        encoder_config=sizes.to_dict(),  # type: ignore[union-attr,operator]
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": options.hidden_dim,
            "num_hidden_layers": options.num_layers,
            "num_attention_heads": options.num_heads,
            "intermediate_size": options.ffn_dim,
            "encoder_hidden_size": trained.model.encoder.dim,
            "cross_attention_frequency": options.cross_attention_frequency,
            "attention_probs_dropout_prob": options.dropout,
            "hidden_dropout_prob": options.dropout,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
            "use_qformer_text_input": False,
        },
        text_config=text_settings(trained),
        audio_token_index=trained.own_tokenizer(_TOKEN).convert_tokens_to_ids(token),
        has_lora_adapter=trained.keep_lora and lora is not None,
        window_size=window,
        downsample_rate=downsample,
        tie_word_embeddings=trained.is_tied,
    )

    def processor(tokenizer: Any, template: str) -> Any:
        from transformers import GraniteSpeechFeatureExtractor, GraniteSpeechProcessor

        features = GraniteSpeechFeatureExtractor(
            n_mels=config["encoder_config"]["input_dim"] // 2,
            projector_window_size=window,
            projector_downsample_rate=downsample,
        )
        return GraniteSpeechProcessor(features, tokenizer, audio_token=token, chat_template=template)

    heard = (
        "A clip alone is heard as in the run. In a batch of unequal clips the class lets the shorter ones "
        "see what pads them, and answers may change: send clips one by one. transformers' class leaves the "
        "scale of Granite's logits out, which changes no greedy answer."
    )
    renamed = {
        "encoder.": "model.encoder.",
        "projector.": "model.projector.",
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
    }
    return Files(config, tensors, processor, heard, _CLASS, renamed)


def _theirs(name: str) -> str:
    first, dot, rest = name.partition(".")
    return {"queries": "query", "proj": "linear"}.get(first, first) + dot + rest


GRANITE_SPEECH = Format(_TOKEN, _problems, _files)
"""The shape of Granite-Speech."""
