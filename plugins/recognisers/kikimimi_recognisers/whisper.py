"""Whisper as a recogniser: the baseline that a speech LM is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.utils import logging as transformers_logging

from kikimimi import (
    FETCHED_PATTERNS,
    Answer,
    AudioError,
    Padded,
    PositiveInt,
    Recogniser,
    RecogniserConfig,
    Rule,
    WeightsError,
    WeightsFiles,
    find_weights,
    listing,
    load_state,
    nearest,
)
from kikimimi_encoders.whisper import (
    HOP,
    MODEL,
    SAMPLE_RATE,
    is_ctranslate2,
    log_mel,
    model_sizes,
    model_state,
    open_whisper,
)
from kikimimi_recognisers.tiny_whisper import write_tiny_whisper

_PROMPT = 4
_MULTILINGUAL_VOCABULARY = 51865


class WhisperRecogniser(Recogniser):
    """Whisper (Radford et al. 2022, arXiv 2212.04356) on its 30 s window, through transformers.

    The task is always `transcribe`, without timestamps; the tokens that Whisper never writes are suppressed
    as its own configuration says.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        """Options of the `whisper` recogniser."""

        weights: Annotated[str, Rule("trained weights", "random".__ne__)] = "openai/whisper-base"
        """A Whisper of transformers or of CTranslate2 (faster-whisper): a Hub id, folder or `package:...`."""
        num_beams: PositiveInt = 1
        """Beams of beam search; 1 is greedy."""
        max_new_tokens: PositiveInt = 440
        """Longest transcript [tokens]; with the 4 tokens of the prompt at most Whisper's 448."""
        batch_size: PositiveInt = 16
        """Clips that are transcribed together."""
        device: Literal["auto", "cpu", "cuda"] = "auto"
        """Where it runs; `auto` is a GPU if there is one."""

    config: Config
    sample_rate = SAMPLE_RATE

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        files = find_weights(config.weights, patterns=(*FETCHED_PATTERNS, MODEL))
        assert files is not None
        self.tokenizer = Tokenizer.from_file(str(files.path("tokenizer.json")))
        if self.tokenizer.token_to_id("<|endoftext|>") is None:
            raise WeightsError(f"{files.source}: tokenizer.json is not Whisper's: it has no <|endoftext|>")
        if is_ctranslate2(files):
            self.model = _from_ctranslate2(files, self.tokenizer)
        else:
            self.model = _from_transformers(files)
        room = self.model.config.max_target_positions - _PROMPT
        if config.max_new_tokens > room:
            raise ValueError(f"max_new_tokens must be at most {room} with {config.weights}")
        settings = self.model.generation_config
        # transformers adds the prompt's length to Whisper's max_length, so that it counts new tokens.
        settings.max_length = config.max_new_tokens
        settings.max_new_tokens = None
        settings.num_beams = config.num_beams
        settings.do_sample = False
        settings.return_timestamps = False
        device = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
        self.model.to("cpu" if device == "auto" else device).eval()
        self._window: int = self.model.config.max_source_positions * 2 * HOP
        self.max_seconds = self._window / SAMPLE_RATE

    @classmethod
    def example(cls, folder: Path) -> Config:
        """Write a tiny Whisper with random weights."""
        write_tiny_whisper(folder)
        return cls.Config(weights=str(folder), max_new_tokens=5, device="cpu")

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[Answer]:
        """Transcribe clips of (S,) mono float32 at 16 kHz, batched.

        Args:
            clips: Waveforms.
            language: ISO 639-1 code; None lets Whisper detect it for each clip.

        Raises:
            AudioError: A clip is longer than the window.
            ValueError: Whisper does not know the language.
        """
        self._check_language(language)
        for number, clip in enumerate(clips):
            if len(clip) > self._window:
                raise AudioError(
                    f"clip {number} lasts {len(clip) / SAMPLE_RATE:.2f} s ({len(clip)} samples), and "
                    f"recogniser 'whisper' takes at most {self.max_seconds:.2f} s ({self._window} samples)"
                )
        size = self.config.batch_size
        texts: list[Answer] = []
        for start in range(0, len(clips), size):
            texts += self._transcribe_batch(clips[start : start + size], language)
        return texts

    def _check_language(self, language: str | None) -> None:
        settings = self.model.generation_config
        if not settings.is_multilingual:
            if language not in (None, "en"):
                raise ValueError(f"{self.config.weights} knows English only, not '{language}'")
            return
        known = [token.strip("<|>") for token in settings.lang_to_id]
        if language is not None and language not in known:
            raise ValueError(
                f"{self.config.weights} does not know the language '{language}'."
                f"{nearest(language, known)} Languages: {listing(known)}"
            )

    @torch.inference_mode()
    def _transcribe_batch(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[Answer]:
        audio = Padded.stack([torch.from_numpy(np.array(clip, np.float32)) for clip in clips])
        audio = audio.to(self.model.device)
        mel = log_mel(audio, self.model.config.num_mel_bins, self._window, whole_window=True)
        settings = self.model.generation_config
        prompt = {"language": language, "task": "transcribe"} if settings.is_multilingual else {}
        verbosity = transformers_logging.get_verbosity()
        # transformers' generate warns of a call that it makes itself.
        transformers_logging.set_verbosity_error()
        try:
            ids = self.model.generate(
                mel.to(self.model.dtype),
                **prompt,
                # Whisper listens to the whole window; said so because padding and end of text are one token.
                attention_mask=torch.ones(mel.shape[0], mel.shape[-1], device=mel.device),
            )
        finally:
            transformers_logging.set_verbosity(verbosity)
        return [self._answer(row) for row in ids.tolist()]

    def _answer(self, row: list[int]) -> Answer:
        # In every Whisper vocabulary the ids from <|endoftext|> on are special ones.
        end: Any = self.tokenizer.token_to_id("<|endoftext|>")
        cut = len(row) >= self.config.max_new_tokens and end not in row
        return Answer(self.tokenizer.decode([token for token in row if token < end]).strip(), cut=cut)


def _from_transformers(files: WeightsFiles) -> Any:
    config = files.read_json("config.json")
    if config.get("model_type") != "whisper":
        raise WeightsError(
            f"{files.source}: is a {config.get('model_type')!r} model; recogniser 'whisper' takes 'whisper'"
        )
    model: Any = WhisperForConditionalGeneration(WhisperConfig.from_dict(config))
    # The head is the embedding table; some files hold it a second time.
    load_state(model, files.state_dict(), source=files.source, ignore=("proj_out.weight",))
    settings: Any = GenerationConfig.from_dict(files.read_json("generation_config.json"))
    # An older way of choosing language and task, which would contradict the arguments.
    settings.forced_decoder_ids = None
    if not hasattr(settings, "is_multilingual"):
        settings.is_multilingual = model.config.vocab_size >= _MULTILINGUAL_VOCABULARY
    model.generation_config = settings
    return model


def _from_ctranslate2(files: WeightsFiles, tokenizer: Tokenizer) -> Any:
    file = open_whisper(files)
    chosen = files.read_json("config.json")
    lacking = [key for key in ("suppress_ids", "suppress_ids_begin") if key not in chosen]
    if lacking:
        raise WeightsError(f"{files.source}: config.json lacks {listing(lacking)}; convert the model again")
    end = tokenizer.token_to_id("<|endoftext|>")
    start = tokenizer.token_to_id("<|startoftranscript|>")
    special: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    sizes: dict[str, Any] = {**model_sizes(file), **special}
    model: Any = WhisperForConditionalGeneration(WhisperConfig(**sizes))
    load_state(model, model_state(file), source=files.source, ignore=("proj_out.weight",))
    model.generation_config = GenerationConfig(
        **special,
        suppress_tokens=chosen["suppress_ids"],
        begin_suppress_tokens=chosen["suppress_ids_begin"],
        no_timestamps_token_id=tokenizer.token_to_id("<|notimestamps|>"),
        is_multilingual=model.config.vocab_size >= _MULTILINGUAL_VOCABULARY,
        lang_to_id={tokenizer.id_to_token(number): number for number in chosen.get("lang_ids", [])},
        task_to_id={task: tokenizer.token_to_id(f"<|{task}|>") for task in ("transcribe", "translate")},
    )
    return model
