"""The speech-aware text LM: encoder -> adapter -> LLM over a packed micro-batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kikimimi.contracts.batch import Batch
from kikimimi.contracts.component import LLM, Adapter, AdapterOutput, Encoder, Generation, Padded
from kikimimi.contracts.scored import Packed, Scored
from kikimimi.model.lora import AudioGate
from kikimimi.model.stand_in import StandIn, evaluating


class SpeechLM(nn.Module):
    """Audio and text in, text out.

    Args:
        encoder: Waveform to frames.
        adapter: Frames to audio tokens.
        llm: The text LLM that hears them.
        fixed: Names of parameters that are constants by design (sinusoidal positions) or by the recipe; no
            stage trains them.
        pretrained: Names of parameters that are filled from a source that checkpoints refer to.
        gate: The switch of low-rank updates of the LLM that act only in conversations with audio, or None.

    Attributes:
        stand_in: What encoder and adapter run in a batch without clips, where all ranks have to run all parts
            because each holds a piece of them; None where that does not matter.
        deferred: Parts that were built without memory, and are to be filled once they have some.
    """

    def __init__(
        self,
        encoder: Encoder,
        adapter: Adapter,
        llm: LLM,
        fixed: frozenset[str] = frozenset(),
        pretrained: frozenset[str] = frozenset(),
        gate: AudioGate | None = None,
    ) -> None:
        super().__init__()
        self.fixed = fixed
        self.pretrained = pretrained
        self.gate = gate
        self.stand_in: StandIn | None = None
        self.deferred: frozenset[str] = frozenset()
        self.encoder = encoder
        self.adapter = adapter
        self.llm = llm

    def blocks(self) -> list[nn.Module]:
        """Return what is sharded, gathered and recomputed as one, in order; none lies in another.

        The parts name them: `Component.shard_classes`.
        """
        found: list[nn.Module] = []
        inside: set[nn.Module] = set()
        for part in (self.encoder, self.adapter, self.llm):
            classes = part.shard_classes()  # one part's linear layer says nothing of another's
            for module in part.modules():
                if type(module) in classes and module not in inside:
                    found.append(module)
                    inside.update(module.modules())
        return found

    def max_positions(self, rendered_length: int, clip_samples: list[int]) -> int:
        """Return the most positions that a conversation can take once its clips are audio tokens."""
        tokens = [self.adapter.max_tokens(self.encoder.num_frames(samples)) for samples in clip_samples]
        return rendered_length - len(clip_samples) + sum(tokens)

    def forward(self, batch: Batch, made: tuple[Packed, AdapterOutput | None] | None = None) -> Scored:
        """Score every target of a micro-batch.

        Raises:
            ValueError: No token of the batch is a target.
        """
        packed, output = made or self._pack(batch, batch.transcripts)
        ends = packed.lengths.cumsum(0)
        is_start = torch.zeros_like(packed.loss)
        is_start[ends - packed.lengths] = True
        # The logits before a target predict it; the first position of a conversation has none before it.
        target_positions = (packed.loss & ~is_start).nonzero()[:, 0]
        if len(target_positions) == 0:
            raise ValueError(f"nothing to learn: no target token in {', '.join(batch.names)}")
        if self.gate is not None:
            self.gate.set(self._hear(batch), packed.lengths)
        logits = self.llm(packed.embeddings, packed.lengths, target_positions - 1)
        sequence = torch.searchsorted(ends, target_positions, right=True)
        losses, counts = (output.losses, output.counts) if output else ({}, {})
        return Scored(
            logits,
            packed.ids[target_positions],
            sequence,
            losses,
            counts,
            len(packed.ids),
            output.tokens if output else None,
        )

    def encode(self, batch: Batch) -> Batch:
        """Return a micro-batch with the encoder's output in place of waveforms, for several passes."""
        if batch.audio is None and batch.features is None and self.stand_in is not None:
            return replace(batch, features=self._encode_stand_in(self.stand_in))
        if batch.audio is None:
            return batch
        return replace(batch, audio=None, features=self.encoder(batch.audio))

    def embed(self, ids: Tensor) -> Tensor:
        """Embed (L,) token ids of the LLM to (L, D)."""
        return self.llm.embed(ids)

    def _hear(self, batch: Batch) -> Tensor:
        """Return (B,) bool, true for conversations that hold audio."""
        owner = torch.searchsorted(batch.lengths.cumsum(0), batch.slots, right=True)
        return torch.zeros_like(batch.lengths, dtype=torch.bool).index_fill_(0, owner, True)

    def pack(
        self, batch: Batch, transcripts: Sequence[str | None] | None = None
    ) -> tuple[Packed, AdapterOutput | None]:
        """Write the audio tokens into their slots.

        Args:
            batch: Conversations and their clips.
            transcripts: (C) what is said in the clips, for adapters that learn from it; None in generation.

        Returns:
            The pack, and what the adapter made of the clips, where there are any.
        """
        return self._pack(batch, transcripts)

    def _pack(
        self, batch: Batch, transcripts: Sequence[str | None] | None
    ) -> tuple[Packed, AdapterOutput | None]:
        is_text = torch.ones_like(batch.loss)
        is_text[batch.slots] = False
        text = self.llm.embed(batch.ids[is_text])
        if not len(batch.slots):
            if self.stand_in is not None:
                heard = self._encode_stand_in(self.stand_in) if batch.features is None else batch.features
                text = text + self._zero(heard).to(text)
            return Packed(text, batch.lengths, batch.ids, batch.loss), None
        features = batch.features
        if features is None:
            assert batch.audio is not None
            features = self.encoder(batch.audio)
        output = self._adapt(features, transcripts)
        return self._splice(batch, is_text, text, _filling(output.tokens, batch.clips)), output

    def _adapt(self, features: Padded, transcripts: Sequence[str | None] | None) -> AdapterOutput:
        # An encoder of half precision feeds an adapter of full precision, unless autocast sees to it.
        weight = next(self.adapter.parameters(), None)
        if weight is not None and not torch.is_autocast_enabled(weight.device.type):
            features = replace(features, values=features.values.to(weight.dtype))
        given = (transcripts,) if self.adapter.uses_transcripts else ()
        output: AdapterOutput = self.adapter(features, *given)
        return output

    def _encode_stand_in(self, stand_in: StandIn) -> Padded:
        device = next(self.llm.parameters()).device
        if stand_in.features is not None:
            return stand_in.features.to(device)
        with evaluating(self.encoder):
            features: Padded = self.encoder(stand_in.audio.to(device))
        return features

    def _zero(self, features: Padded) -> Tensor:
        """Return zero, whose gradient passes through every layer that the features of a clip pass."""
        with evaluating(self.adapter):
            output = self._adapt(features, (None,))
        return (output.tokens.values.sum() + sum(output.losses.values())) * 0

    def _splice(self, batch: Batch, is_text: Tensor, text: Tensor, tokens: Padded) -> Packed:
        device = text.device
        token_lengths = tokens.lengths.to(device)
        # How many packed positions each text position becomes: one, or the clip's audio tokens.
        widths = torch.ones_like(batch.ids)
        widths[batch.slots] = token_lengths
        origin = torch.repeat_interleave(torch.arange(len(batch.ids), device=device), widths)  # (N,)
        from_text = is_text[origin]
        embeddings = text.new_empty(len(origin), text.shape[1])
        embeddings[from_text] = text
        embeddings[~from_text] = tokens.values[tokens.mask()].to(text.dtype)  # (C, T, D) -> (sum T, D)
        owner = torch.repeat_interleave(torch.arange(len(batch.lengths), device=device), batch.lengths)
        lengths = torch.zeros_like(batch.lengths).index_add_(0, owner, widths)
        ids = torch.where(from_text, batch.ids[origin], -1)
        return Packed(embeddings, lengths, ids, batch.loss[origin] & from_text)

    @torch.inference_mode()
    def generate_ids(
        self, batch: Batch, generation: Generation, packed: Packed | None = None
    ) -> list[list[int]]:
        """Continue each conversation of the batch, whose renderings end with an assistant header.

        Returns:
            The new ids of each conversation, without the ids that end a turn.
        """
        if packed is None:
            packed, _ = self.pack(batch)
        prompts = list(torch.split(packed.embeddings, packed.lengths.tolist()))
        if self.gate is None:
            return self.llm.generate(prompts, generation)
        answers: list[list[int]] = [[]] * len(prompts)
        hears = self._hear(batch).tolist()
        for audio in sorted(set(hears)):
            self.gate.set(audio)
            rows = [row for row, heard in enumerate(hears) if heard == audio]
            for row, ids in zip(
                rows, self.llm.generate([prompts[row] for row in rows], generation), strict=True
            ):
                answers[row] = ids
        return answers


def _filling(tokens: Padded, clips: Tensor) -> Padded:
    """Return the audio tokens of each slot: those of its clip."""
    if len(clips) == len(tokens) and bool((clips == torch.arange(len(clips), device=clips.device)).all()):
        return tokens
    return Padded(tokens.values[clips], tokens.lengths[clips.to(tokens.lengths.device)])
