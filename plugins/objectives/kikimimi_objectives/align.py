"""Audio tokens are drawn to the LLM's own embeddings of what is said."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kikimimi import Loss, Objective, ObjectiveConfig, Step, Units


class Alignment(Objective):
    """Explicit alignment: how far a clip's audio tokens are from the LLM's embeddings of its words.

    The words are spelled in the LLM's own tokens, nothing before or after them, and embedded as the LLM does
    it; the embeddings are targets, no gradient reaches them. The mean is over the pairs of all clips. Clips
    of which it is not known what is said, and those whose lengths do not match, are left out and counted
    (``align_unknown``, ``align_length``); where none is left the loss is zero.

    Wav2Prompt (Deng et al. 2024, arXiv 2406.00522) takes token embeddings as targets of what
    integrate-and-fire gives, one vector per token: here `align` with `match: exact` beside `ce` in a `sum`,
    and a `cif` adapter with `vocabulary: llm`. In training that adapter gives as many vectors as there are
    tokens; left to itself, in a validation, it may give others, and such clips are left out there.
    `match: pool` follows no publication.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        """Options of the `align` objective."""

        distance: Literal["l2", "cosine"] = "l2"
        """What is brought down: the squared difference, mean over the D values of a pair; or 1 - the cosine
        of the angle between the two."""
        match: Literal["exact", "pool"] = "exact"
        """What is compared: audio token with token, where a clip has as many of one as of the other; or the
        mean of a span of audio tokens with a token. The spans are as even as they can be, and a clip needs at
        least one audio token for each."""

    @property
    def reaches(self) -> tuple[str, ...]:
        """What makes the audio tokens: the LLM does not run."""
        return ("encoder", "adapter")

    def units(self, step: Step) -> Mapping[str, Units]:
        """The tokens of what is said in the clips that may become as many audio tokens.

        Of adapters whose audio tokens depend on the content, other clips may turn out not to match: they
        count with a distance of zero.
        """
        vocabulary, adapter = step.model.llm.vocabulary, step.model.adapter
        lengths = [
            (len(vocabulary.encode(text)), adapter.max_tokens(frames))
            for text, frames in zip(step.batch.transcripts, step.num_frames, strict=True)
            if text is not None
        ]
        return {"align": Units("pairs", sum(number for number, most in lengths if number <= most))}

    def loss(self, step: Step) -> Loss:
        """Return the mean distance, as part ``align``, and how similar the pairs are [cosine]."""
        texts, tokens = step.batch.transcripts, step.tokens
        vocabulary = step.model.llm.vocabulary
        counts = {"align_unknown": 0, "align_length": 0}
        heard: list[Tensor] = []
        ids: list[int] = []
        for text, clip in zip(texts, tokens.unstack() if tokens else [], strict=True):
            spelled = None if text is None else vocabulary.encode(text)
            spans = None if spelled is None else self._spans(clip, len(spelled))
            if spelled is None:
                counts["align_unknown"] += 1
            elif spans is None:
                counts["align_length"] += 1
            else:
                heard.append(spans)
                ids += spelled
        with torch.no_grad():  # also where there are none: ranks that share a model embed together
            wanted = step.model.embed(torch.tensor(ids, dtype=torch.int64, device=step.batch.ids.device))
        zero = step.zero()
        if not heard:
            return Loss(zero, {"align": zero}, {}, counts, numbers={"align": 0})
        found, wanted = torch.cat(heard).float(), wanted.float()  # (pairs, D) each
        similarity = F.cosine_similarity(found, wanted, dim=1)  # (pairs,)
        distance = (1 - similarity) if self.config.distance == "cosine" else (found - wanted).square().mean(1)
        value = distance.mean() + zero
        measures = {"align/similarity": similarity.detach().mean()}
        return Loss(value, {"align": value}, measures, counts, numbers={"align": len(ids)})

    def _spans(self, clip: Tensor, number: int) -> Tensor | None:
        """Return what is compared of a clip (T, D) of so many tokens, or None where they do not match."""
        length = len(clip)
        if self.config.match == "exact":
            return clip if length == number else None
        if not 1 <= number <= length:
            return None
        edges = torch.arange(number + 1, device=clip.device) * length // number
        sizes = edges.diff()
        sums = (
            clip.float()
            .new_zeros(number, clip.shape[1])
            .index_add(0, torch.arange(number, device=clip.device).repeat_interleave(sizes), clip.float())
        )
        return sums / sizes[:, None]  # (T, D) -> (L, D)
