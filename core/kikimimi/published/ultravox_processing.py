"""The processor of a model of Ultravox's shape: what stands beside its weights, for transformers and vLLM."""

from math import ceil
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

_WINDOW = 480_000
"""Samples of a chunk: 30 s."""
_HOP = 160
"""Samples of a mel frame."""


class UltravoxProcessor(ProcessorMixin):  # type: ignore[misc]
    """Spectrograms of clips, in chunks of 30 s, and a text with as many ids as they have audio tokens.

    Args:
        audio_processor: Whisper's feature extractor.
        tokenizer: The tokenizer.
        chat_template: Jinja of a conversation, with a placeholder for each clip.
        stack_factor: Frames of 20 ms that become one audio token.
        audio_placeholder: What stands for a clip in a text.
        audio_replacement_token_id: The id that stands where the audio tokens are; None is the end of a text.
    """

    def __init__(
        self,
        audio_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        stack_factor: int = 8,
        audio_placeholder: str = "<|audio|>",
        audio_replacement_token_id: int | None = None,
    ) -> None:
        self.stack_factor = stack_factor
        self.audio_placeholder = audio_placeholder
        if audio_replacement_token_id is None:
            audio_replacement_token_id = tokenizer.eos_token_id
        self.audio_replacement_token_id = audio_replacement_token_id
        super().__init__(audio_processor, tokenizer, chat_template=chat_template)

    def num_tokens(self, num_samples: int) -> list[int]:
        """Return the audio tokens of each chunk of a clip."""
        frames = [ceil(min(_WINDOW, num_samples - start) / _HOP) for start in range(0, num_samples, _WINDOW)]
        return [max(1, ceil(count / 2 / self.stack_factor)) for count in frames]

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        text: Any = None,
        audio: Any = None,
        audios: Any = None,
        sampling_rate: int = 16_000,
        include_audio_num_chunks: bool = False,
        return_tensors: str = "pt",
        **others: Any,
    ) -> Any:
        """Return ids, and of each chunk its spectrogram, its mel frames and its audio tokens.

        Args:
            text: One text, or a list of one.
            audio: A clip of 16 kHz, or a list of clips.
            audios: The same.
            sampling_rate: The clips' rate [Hz].
            include_audio_num_chunks: Whether the chunks of each clip are counted, too.
            return_tensors: "pt".
            others: Ignored.
        """
        given = audios if audio is None else audio
        clips = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
        if clips and sampling_rate != self.audio_processor.sampling_rate:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError(
                f"clips of {sampling_rate} Hz: {self.audio_processor.sampling_rate} Hz are needed"  # pyright: ignore[reportAttributeAccessIssue]
            )
        data: dict[str, Any] = {}
        counts: list[list[int]] = []
        if clips:
            spectrograms: list[torch.Tensor] = []
            lengths: list[int] = []
            tokens: list[int] = []
            for clip in clips:
                wave = torch.as_tensor(clip, dtype=torch.float32).flatten()
                if not len(wave):
                    raise ValueError("a clip without samples")
                own = self.num_tokens(len(wave))
                counts.append(own)
                tokens += own
                whole = torch.nn.functional.pad(wave, (0, max(-len(wave) % _HOP, 2 * _HOP - len(wave))))
                mel = self.audio_processor(  # pyright: ignore[reportAttributeAccessIssue]
                    whole.numpy(),
                    sampling_rate=sampling_rate,
                    padding=False,
                    truncation=False,
                    return_tensors="pt",
                ).input_features[0]
                for chunk in mel.split(_WINDOW // _HOP, dim=-1):
                    spectrograms.append(chunk)
                    lengths.append(chunk.shape[-1])
            longest = max(lengths)
            padded = [torch.nn.functional.pad(mel, (0, longest - mel.shape[-1])) for mel in spectrograms]
            data["audio_values"] = torch.stack(padded)
            data["audio_lens"] = torch.tensor(lengths)
            data["audio_token_len"] = torch.tensor(tokens)
            if include_audio_num_chunks:
                data["audio_num_chunks"] = torch.tensor([len(own) for own in counts])
        if text is not None:
            ids = self._ids(text if isinstance(text, str) else text[0], [sum(own) for own in counts])
            data["input_ids"] = torch.tensor([ids])
            data["attention_mask"] = torch.ones_like(data["input_ids"])
        return BatchFeature(data)

    def _ids(self, text: str, counts: list[int]) -> list[int]:
        before, *rest = text.split(self.audio_placeholder)
        if len(rest) != len(counts):
            raise ValueError(f"{len(rest)} placeholders {self.audio_placeholder!r} for {len(counts)} clips")
        ids: list[int] = self.tokenizer.encode(before, add_special_tokens=False)
        for count, part in zip(counts, rest, strict=True):
            ids += [self.audio_replacement_token_id] * count  # pyright: ignore[reportAssignmentType]
            ids += self.tokenizer.encode(part, add_special_tokens=False)
        return ids


UltravoxProcessor.register_for_auto_class()
