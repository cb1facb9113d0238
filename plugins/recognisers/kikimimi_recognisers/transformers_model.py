"""A published model through transformers' own code: a row beside ours that owes nothing to it."""

import inspect
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import transformers
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import AutoConfig, AutoProcessor
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.utils import logging as transformers_logging

from kikimimi import (
    Answer,
    AudioError,
    AudioPart,
    Conversation,
    Message,
    PositiveInt,
    Recogniser,
    RecogniserConfig,
    Rule,
    Text,
    TextPart,
    WeightsError,
    WeightsFiles,
    encode_audio,
    find_weights,
    listing,
    nearest,
)
from kikimimi_recognisers.tiny_audio_flamingo import write_tiny_audio_flamingo

_CLASSES = {
    # Of models that also speak, the part that writes; published configurations name the whole.
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeThinkerForConditionalGeneration",
}
_TRANSCRIBE = "Transcribe the input speech."
_PADDING = {"padding": True, "padding_side": "left"}
"""How texts are padded; how clips are is the processor's own affair."""
_DTYPES: dict[str, Any] = {
    "published": "auto",
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class TransformersRecogniser(Recogniser):
    """Any model that transformers opens with an `AutoProcessor` and that writes text about audio.

    Voxtral, Qwen2-Audio, the thinker of Qwen-Omni, Audio Flamingo 3, Granite-Speech, Phi-4-Multimodal,
    Gemma-3n and their like, and encoder-decoders such as Whisper and Moonshine. The processor makes the
    prompt and the features, the model's own class generates: greedily, or with beams.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        """Options of the `transformers` recogniser."""

        weights: Annotated[str, Rule("trained weights", "random".__ne__)]
        """The model as it is published: a Hub id with its revision (org/name@COMMIT), or a folder."""
        prompt: Text | None = None
        """What is asked about every clip; null asks what the evaluation asks. `{language}` in it becomes the
        English name of the clip's language."""
        system: Text | None = None
        """System prompt; null is the evaluation's, or the model's own where the evaluation has none."""
        transcription: bool = False
        """Whether to ask by the processor's own request for transcripts (of Voxtral, Audio Flamingo 3 and
        others) in place of a prompt, with the clip's language where the request has one."""
        chat: bool = True
        """Whether prompts go through the chat template. Without: the clip and its marks, then the request, as
        models that are no chat models were trained."""
        num_beams: PositiveInt = 1
        """Beams of beam search; 1 is greedy."""
        max_new_tokens: PositiveInt = 256
        """Longest answer [tokens]."""
        batch_size: PositiveInt = 8
        """Clips that are answered together. Of some models (Granite-Speech, Phi-4-Multimodal, Moonshine) the
        others of a batch change an answer: 1 for them."""
        precision: Literal["published", "fp32", "bf16", "fp16"] = "published"
        """Number format of weights and computing."""
        device: Literal["auto", "cpu", "cuda"] = "auto"
        """Where it runs; `auto` is a GPU if there is one."""

        def __post_init__(self) -> None:
            super().__post_init__()
            given = [name for name in ("prompt", "system") if getattr(self, name) is not None]
            if self.transcription and given:
                raise ValueError(
                    f"{given[0]}: goes unused with 'transcription: true', where the processor writes the "
                    "request. Leave one of them out"
                )
            if not self.chat and (self.system is not None or self.transcription):
                name = "transcription" if self.transcription else "system"
                raise ValueError(f"{name}: needs the chat template, which 'chat: false' leaves out")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        files = find_weights(config.weights)
        assert files is not None
        with _quiet():
            self.processor, self.model = _open(files, config)
        extractor = _extractor(self.processor)
        self.sample_rate = int(extractor.sampling_rate)
        self.max_seconds = _max_seconds(self.processor, extractor)
        device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
        self.model.to("cpu" if device == "auto" else device).eval()
        settings = self.model.generation_config
        settings.do_sample = False
        settings.temperature = settings.top_p = settings.top_k = None
        settings.num_beams = config.num_beams
        settings.max_length = None
        settings.max_new_tokens = config.max_new_tokens
        self._listens_only = bool(self.model.config.is_encoder_decoder)
        self._is_mistral = type(self.processor.tokenizer).__name__ == "MistralCommonBackend"
        self._check_asked(files.source)
        if not self._listens_only and self.processor.tokenizer.pad_token is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        self._takes_parts = not self._listens_only and config.chat and self._template_takes_parts()

    @classmethod
    def example(cls, folder: Path) -> Config:
        """Write a tiny Audio Flamingo 3 with random weights."""
        write_tiny_audio_flamingo(folder)
        return cls.Config(weights=str(folder), max_new_tokens=3, device="cpu")

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[Answer]:
        """Answer the prompt about each clip; where there is none, the request is for a transcript.

        Args:
            clips: Waveforms of (S,) mono float32 at `sample_rate`.
            language: ISO 639-1 code, or None where it is not known.

        Raises:
            AudioError: A clip is longer than the model takes, by itself or with its prompt and answer.
            ValueError: The model does not know the language, or the prompt names one that is not known.
        """
        asked = Conversation((Message("user", (AudioPart("clip"), TextPart(_TRANSCRIBE))),))
        return self.respond([asked] * len(clips), clips, language)

    def respond(
        self, prompts: Sequence[Conversation], clips: Sequence[NDArray[np.float32]], language: str | None
    ) -> list[Answer]:
        """Answer the prompt, or what the evaluation asks, about each clip, as `transcribe` does."""
        self._check_clips(clips)
        answers: list[Answer] = []
        size = self.config.batch_size
        for start in range(0, len(clips), size):
            held = [np.array(clip, np.float32) for clip in clips[start : start + size]]
            with _quiet(), torch.inference_mode():
                if self._listens_only:
                    answers += self._listen(held, language)
                else:
                    inputs = self._inputs(prompts[start : start + size], held, language)
                    self._check_room(inputs, start)
                    answers += self._generate(inputs)
        return answers

    def _check_asked(self, source: str) -> None:
        config, kind = self.config, type(self.model).__name__
        if self._listens_only:
            for name in ("prompt", "system"):
                if getattr(config, name) is not None:
                    raise ValueError(f"{name}: {kind} takes no requests, so it would go unused")
        if config.transcription and not hasattr(self.processor, "apply_transcription_request"):
            raise ValueError(
                f"transcription: {type(self.processor).__name__} of {source} has no request of its own for "
                "transcripts. Set a prompt"
            )
        if self._listens_only or self._is_mistral:
            if not config.chat:
                raise ValueError(f"chat: {kind} is asked in one way only; leave 'chat: false' out")
        elif config.chat and self._chat_template() is None:
            raise ValueError(
                f"chat: {source} has no chat template. Set 'chat: false' for the clip and its marks, then "
                "the request"
            )

    def _chat_template(self) -> Any:
        own = getattr(self.processor, "chat_template", None)
        return own if own is not None else getattr(self.processor.tokenizer, "chat_template", None)

    def _template_takes_parts(self) -> bool:
        """Whether the chat template writes the clip's mark for an audio part; older ones take texts only."""
        if self._is_mistral:
            return True
        parts = [{"type": "audio", "audio": "clip.wav"}, {"type": "text", "text": "What is said?"}]
        try:
            written = self.processor.apply_chat_template(
                [{"role": "user", "content": parts}],
                chat_template=self._chat_template(),
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TypeError, TemplateError):
            return False
        return bool(written.count(self.processor.audio_token) == 1)

    def _check_clips(self, clips: Sequence[NDArray[np.float32]]) -> None:
        for number, clip in enumerate(clips):
            seconds = len(clip) / self.sample_rate
            if self.max_seconds is not None and seconds > self.max_seconds:
                raise AudioError(
                    f"clip {number} lasts {seconds:.2f} s ({len(clip)} samples), and {self.config.weights} "
                    f"takes at most {self.max_seconds:.2f} s"
                )

    def _check_room(self, inputs: Any, first: int) -> None:
        if self.model.config.model_type == "qwen2_audio":
            # Its forward takes a lone audio token for a prompt whose tokens are yet to be placed.
            for number, row in enumerate(inputs["input_ids"] == self.processor.audio_token_id, first):
                if int(row.sum()) == 1:
                    raise AudioError(f"clip {number} is one audio token, too short for Qwen2-Audio's class")
        text = self.model.config.get_text_config(decoder=True)
        room = getattr(text, "max_position_embeddings", None)
        for number, used in enumerate(inputs["attention_mask"].sum(1).tolist(), first):
            if room is not None and used + self.config.max_new_tokens > room:
                raise AudioError(
                    f"clip {number} and its prompt are {used} tokens, which with "
                    f"{self.config.max_new_tokens} of the answer is more than the {room} that "
                    f"{self.config.weights} takes"
                )

    def _inputs(
        self, prompts: Sequence[Conversation], clips: list[NDArray[np.float32]], language: str | None
    ) -> Any:
        """Return what the processor makes of prompts and clips, texts padded on the left."""
        if self.config.transcription:
            return self._transcription_request(clips, language)
        talks = [self._turns(prompt, language) for prompt in prompts]
        if self._takes_parts:
            chosen = {} if self._is_mistral else {"chat_template": self._chat_template()}
            padding = {} if self._is_mistral else {"processor_kwargs": {"text_kwargs": _PADDING}}
            return self.processor.apply_chat_template(
                [self._with_parts(turns, clip) for turns, clip in zip(talks, clips, strict=True)],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **({} if self._is_mistral else {"add_generation_prompt": True}),
                **chosen,
                **padding,
            )
        texts = [self._written(turns) for turns in talks]
        begins = self.processor.tokenizer.bos_token
        bare = self.config.chat and begins is not None and texts[0].startswith(begins)
        return self.processor(
            text=texts,
            audio=clips,
            return_tensors="pt",
            sampling_rate=self.sample_rate,
            text_kwargs={**_PADDING, **({"add_special_tokens": False} if bare else {})},
        )

    def _turns(self, prompt: Conversation, language: str | None) -> list[Message]:
        """Return the turns that are asked: those of the evaluation, or the prompt's."""
        turns = list(prompt.messages)
        if self.config.prompt is not None:
            words = _named(self.config.prompt, language)
            kept = [turn for turn in turns[:1] if turn.role == "system"]
            turns = [*kept, Message("user", (AudioPart(prompt.clips()[0]), TextPart(words)))]
        if self.config.system is not None:
            own = Message("system", (TextPart(self.config.system),))
            turns = [own, *(turn for turn in turns if turn.role != "system")]
        return turns

    def _with_parts(self, turns: list[Message], clip: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Return turns as chat templates that know audio parts have them."""
        sound: dict[str, Any] = {"type": "audio", "audio": clip}
        if self._is_mistral:
            wave = encode_audio(clip, self.sample_rate, kind="WAV", subtype="FLOAT")
            sound = {"type": "audio", "base64": b64encode(wave).decode()}
        return [
            {
                "role": turn.role,
                "content": [
                    sound if isinstance(part, AudioPart) else {"type": "text", "text": part.text}
                    for part in turn.parts
                    if isinstance(part, AudioPart) or part.text
                ],
            }
            for turn in turns
        ]

    def _written(self, turns: list[Message]) -> str:
        """Return turns as one text, the clip's mark in its place."""
        mark = self.processor.audio_token
        if not self.config.chat:
            begin, end = (getattr(self.processor, f"audio_{side}_token", "") for side in ("bos", "eos"))
            mark = f"{begin}{mark}{end}"
        texts = [
            "".join(mark if isinstance(part, AudioPart) else part.text for part in turn.parts)
            for turn in turns
        ]
        if not self.config.chat:
            if len(texts) > 1:
                roles = listing([turn.role for turn in turns])
                raise ValueError(
                    f"chat: 'chat: false' takes one turn, and there are {len(turns)} ({roles}). Set a prompt"
                )
            return texts[0]
        written: str = self.processor.tokenizer.apply_chat_template(
            [{"role": turn.role, "content": text} for turn, text in zip(turns, texts, strict=True)],
            chat_template=self._chat_template(),
            tokenize=False,
            add_generation_prompt=True,
        )
        return written

    def _transcription_request(self, clips: list[NDArray[np.float32]], language: str | None) -> Any:
        request = self.processor.apply_transcription_request
        offered: dict[str, Any] = {
            "language": language,
            "model_id": self.config.weights,
            "sampling_rate": self.sample_rate,
            "format": ["WAV"] * len(clips),
        }
        if language is not None:
            offered["source_language"] = language
        if not self._is_mistral and not self._listens_only:
            offered["text_kwargs"] = _PADDING
        taken = {*_parameters(request), "text_kwargs"}
        return request(audio=clips, **{name: value for name, value in offered.items() if name in taken})

    def _listen(self, clips: list[NDArray[np.float32]], language: str | None) -> list[Answer]:
        """Answer with an encoder-decoder, which hears and takes no prompt."""
        if self.config.transcription:
            return self._generate(self._transcription_request(clips, language))
        extractor, settings = _extractor(self.processor), self.model.generation_config
        inputs = self.processor(
            audio=clips,
            sampling_rate=self.sample_rate,
            return_tensors="pt",
            return_attention_mask=True,
            # Whisper's window is always whole.
            padding="max_length" if hasattr(extractor, "n_samples") else True,
        )
        spoken: dict[str, Any] = {}
        if getattr(settings, "is_multilingual", False):
            spoken = {"language": language, "task": "transcribe"}
        elif hasattr(settings, "is_multilingual") and language not in (None, "en"):
            raise ValueError(f"{self.config.weights} knows English only, not '{language}'")
        return self._generate(inputs, **spoken)

    def _generate(self, inputs: Any, **spoken: Any) -> list[Answer]:
        inputs = inputs.to(self.model.device, self.model.dtype)
        ids = self.model.generate(**inputs, **spoken)
        prompt = inputs.get("input_ids") if not self._listens_only else inputs.get("decoder_input_ids")
        if prompt is not None and torch.equal(ids[:, : prompt.shape[1]], prompt):
            ids = ids[:, prompt.shape[1] :]
        return [self._answer(row) for row in ids.tolist()]

    def _answer(self, row: list[int]) -> Answer:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        if row and row[0] == self.model.generation_config.decoder_start_token_id:
            row = row[1:]
        cut = len(row) >= self.config.max_new_tokens and not set(row) & set(ends)
        text = self.processor.tokenizer.decode(row, skip_special_tokens=True)
        if self.config.transcription and "strip_prefix" in _parameters(self.processor.decode):
            # Audio Flamingo 3 and its kin wrap a transcript in a sentence, which they take off themselves.
            (text,) = self.processor.decode([row], skip_special_tokens=True, strip_prefix=True)
        return Answer(text.strip(), cut=cut)


def _open(files: WeightsFiles, config: TransformersRecogniser.Config) -> tuple[Any, Any]:
    """Return processor and model, by transformers alone: without remote code, and from safetensors only."""
    folder = files.folder
    left_out = sorted({path.name for path in folder.glob("*.safetensors")} - set(files.names()))
    if left_out:
        raise WeightsError(
            f"{files.source}: transformers reads a folder whole, and {listing(left_out)} lie there, too. "
            "Name the folder"
        )
    if not files.names("*.safetensors"):
        raise WeightsError(
            f"{files.source}: holds no *.safetensors, and pickled weights, which can run any code, are never "
            f"loaded. Files: {listing(files.names())}"
        )
    try:
        known = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        kind = _class(files, known)
        model, found = kind.from_pretrained(
            folder,
            dtype=_DTYPES[config.precision],
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{files.source}: transformers cannot open it: {error}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise WeightsError(
            f"{files.source}: lacks {len(missing)} weights of {kind.__name__}: {listing(missing[:6])}"
        )
    if getattr(known, "has_lora_adapter", False) and not getattr(model, "_hf_peft_config_loaded", False):
        raise WeightsError(
            f"{files.source}: its LoRA weights were not read. They lie beside the model "
            "(adapter_config.json, adapter_model.safetensors), and need: pip install peft"
        )
    return processor, model


def _class(files: WeightsFiles, config: Any) -> Any:
    names = [_CLASSES[config.model_type]] if config.model_type in _CLASSES else config.architectures or []
    found = [getattr(transformers, name, None) for name in names[:1]]
    if not found or found[0] is None or not hasattr(found[0], "generate"):
        raise WeightsError(
            f"{files.source}: config.json names the architecture {listing(names)}, of which transformers "
            f"{transformers.__version__} has no class that generates"
        )
    return found[0]


def _extractor(processor: Any) -> Any:
    for name in ("feature_extractor", "audio_processor"):
        found = getattr(processor, name, None)
        if found is not None and hasattr(processor, "tokenizer"):
            return found
    raise WeightsError(f"{type(processor).__name__} takes no audio, or writes no text")


def _max_seconds(processor: Any, extractor: Any) -> float | None:
    """Return the length beyond which the processor would cut a clip [s], or None where it cuts none."""
    if hasattr(processor, "max_audio_len"):
        return float(processor.max_audio_len)
    if getattr(processor, "audio_kwargs", {}).get("truncation") is False:
        return None
    defaults = _parameters(extractor.__call__)
    if "truncation" not in defaults or defaults["truncation"].default is not True:
        return None
    longest = defaults["max_length"].default or getattr(extractor, "n_samples", None)
    return None if longest is None else longest / int(extractor.sampling_rate)


def _named(prompt: str, language: str | None) -> str:
    if "{language}" not in prompt:
        return prompt
    if language is None:
        raise ValueError("prompt: names {language}, and the language of a clip is not known")
    if language not in LANGUAGES:
        raise ValueError(
            f"prompt: the language '{language}' has no name here.{nearest(language, LANGUAGES)} Write the "
            "name out in place of {language}"
        )
    return prompt.replace("{language}", LANGUAGES[language].title())


def _parameters(function: Any) -> Any:
    return inspect.signature(function).parameters


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from warning of calls that it makes itself, and from drawing bars."""
    verbosity, drawn = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if drawn:
            transformers_logging.enable_progress_bar()
