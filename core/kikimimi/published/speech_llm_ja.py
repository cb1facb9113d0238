"""The Japanese speech LLM of github.com/Atotti/ja-speech-llm (`LlamaForSpeechLM`), as it saves itself."""

from kikimimi.errors import WeightsError
from kikimimi.published.model import Expressed, PublishedModel

_MARKS = {"audio_start": "<|reserved_343|>", "audio_end": "<|reserved_342|>"}
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def express_speech_llm_ja(model: PublishedModel) -> Expressed:
    """Return the parts: frames averaged in fours, two linear layers, LLM-jp with marks around a clip.

    Raises:
        WeightsError: Its encoder is of a type that has no part here.
    """
    config = model.config
    encoder = config.get("encoder_type", "whisper")
    names = {"whisper": "whisper", "afwhisper": "qwen2_audio", "qwen2-audio": "qwen2_audio"}
    if encoder not in names:
        raise WeightsError(
            f"{model.source}: config.json: encoder_type is {encoder!r}; known are {', '.join(names)}"
        )
    tokenizer = model.files.names(*_TOKENIZERS)
    return Expressed(
        encoder={"name": names[encoder], "weights": model.source_of("encoder"), "pad": "window"},
        adapter={
            "name": "mlp",
            "weights": model.source,
            "downsample": config.get("adapter_kernel_size", 4),
            "pool": "mean",
            "remainder": "drop",
            "hidden_dim": model.files.shape("adapter.linear1.weight")[0],
            "bias": bool(config.get("adapter_linear_bias", False)),
        },
        llm={
            "name": "llm_jp",
            "weights": model.source,
            **({} if tokenizer else {"tokenizer": config.get("decoder_id")}),
            "chat_template": "llm_jp_speech",
            **_MARKS,
        },
        task={"name": "asr", "request": "音声を書き起こしてください。"},
    )
