"""Encoder-decoder LLMs: Flan-T5, mT0 and others of T5's kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from kikimimi import (
    AudioPart,
    ComponentConfig,
    Conversation,
    Generation,
    GuardedTokenizer,
    LayerCount,
    LLMContext,
    Message,
    Options,
    Padded,
    PositiveInt,
    Probability,
    Rendered,
    Role,
    Stretch,
    WeightsError,
    flatten_message,
)
from kikimimi_llms.pretrained import Pretrained
from kikimimi_llms.scratch import Tokens, check_heads
from kikimimi_llms.transformers_llm import TransformersLLM, until_stop

_MODEL_TYPES = ("mt5", "t5", "umt5")


@dataclass(kw_only=True, frozen=True)
class T5Scratch(Options):
    """Sizes of a T5 that is trained from scratch."""

    dim: PositiveInt = 256
    """Width D of embeddings and residual streams."""
    num_layers: LayerCount = 4
    """Layers of the encoder, and as many of the decoder."""
    num_heads: PositiveInt = 4
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 1024
    """Inner width of the gated feed-forward networks."""
    tie_embeddings: bool = False
    """Whether the output head is the embedding table, on scaled states (T5 1.0); T5 1.1 has a head."""
    dropout: Probability = 0.0
    """Dropout while training [probability]."""
    tokenizer: Tokens = "characters"
    """What a token is: a character of the training data, or a UTF-8 byte."""

    def __post_init__(self) -> None:
        check_heads(self.dim, self.num_heads)


class PlainText:
    """A tokenizer that writes a prompt, the end-of-sequence token, an answer, and that token again.

    The turns of the prompt stand on lines of their own, earlier answers among them. No text can become a
    control token.

    Args:
        tokenizer: A fast tokenizer of transformers with an end-of-sequence token.
        source: What to call it in messages.
        audio_start: Control token to put before every slot, or None.
        audio_end: Control token to put after every slot, or None.

    Attributes:
        tokenizer: The tokenizer.
        end: The id that ends prompt and answer.

    Raises:
        ValueError: It is no fast tokenizer, or a token does not exist.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str,
        audio_start: str | None = None,
        audio_end: str | None = None,
    ) -> None:
        self._guarded = GuardedTokenizer(
            tokenizer, source=source, audio_start=audio_start, audio_end=audio_end
        )
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{source}: the tokenizer has no end-of-sequence token")
        self.tokenizer = tokenizer
        self.end = int(tokenizer.eos_token_id)

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render to ids, loss mask, slots and spans.

        Args:
            conversation: The turns. The last one is what is learnt, where it is the assistant's.
            generate: Whether all turns are the prompt.

        Raises:
            ValueError: An answer holds audio, or a text cannot be encoded without forming a control token.
        """
        asked = (conversation if generate else conversation.prompt()).messages
        answers = conversation.messages[len(asked) :]
        if any(isinstance(part, AudioPart) for answer in answers for part in answer.parts):
            raise ValueError("an answer that is to be learnt holds audio")
        stretches = [*self._lay(asked, loss=False)]
        for answer in answers:
            stretches += self._lay((answer,), loss=True)
        return Rendered.of(stretches)

    def _lay(self, messages: tuple[Message, ...], *, loss: bool) -> Iterator[Stretch]:
        """Yield turns on lines of their own, and the end after them."""
        texts = [flatten_message(message) for message in messages]
        text = "\n".join(texts)
        starts = [0, *accumulate(len(line) + 1 for line in texts)]
        for token in self._guarded.encode(text, [(0, len(text))]):
            said: Iterator[Role] = (
                message.role
                for message, line, start in zip(messages, texts, starts, strict=False)
                if token.start < start + len(line) and start < token.end
            )
            yield from self._guarded.stretches(token, next(said, None), loss=loss)
        yield "template", None, [self.end], loss


class Seq2Seq(TransformersLLM):
    """An encoder-decoder LLM of T5's kind (Raffel et al. 2020, arXiv 1910.10683): Flan-T5, mT0, umT5, ...

    Of each sequence, what stands up to and including its first selected position is the prompt, which the
    encoder reads in both directions; the decoder is given what follows, after its start token. The logits at
    a selected position are those of the decoder's step that many positions after the prompt's last one.
    Source: transformers' `T5ForConditionalGeneration`, whose own forward pass is used.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `seq2seq` LLM."""

        weights: str = "random"
        """A Hub id, a folder, `package:...`, or `random` to train from scratch."""
        scratch: T5Scratch | None = None
        """Sizes and tokenizer with `weights: random`; None is their defaults. Refused with other weights."""
        audio_start: str | None = None
        """Control token of the tokenizer before every clip (such as `<extra_id_0>`); None is none."""
        audio_end: str | None = None
        """Control token of the tokenizer after every clip; None is none."""

        def __post_init__(self) -> None:
            if self.weights != "random" and self.scratch is not None:
                raise ValueError(f"scratch is read only with weights: random, not with {self.weights!r}")

        @property
        def from_scratch(self) -> T5Scratch | None:
            """The sizes of a T5 from scratch, or None for a pretrained one."""
            return (self.scratch or T5Scratch()) if self.weights == "random" else None

    config: Config
    model_classes = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    def __init__(self, config: Config, context: LLMContext) -> None:
        super().__init__(config, context)
        self.causal = False
        self.text = PlainText(
            self.tokenizer,
            source=f"llm 'seq2seq' ({config.weights})",
            audio_start=config.audio_start,
            audio_end=config.audio_end,
        )
        self.model = self._new_model()
        self.dim = self.model.config.d_model
        if not self._has_tied_head():
            # transformers calls every T5's head tied; T5 1.1, Flan-T5 and mT5 have one of their own.
            head = torch.empty_like(self.model.lm_head.weight)
            self.model.lm_head.weight = nn.Parameter(nn.init.normal_(head, std=self.dim**-0.5))
        self.vocab_size = self.model.config.vocab_size
        self.context_length = None

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return a from-scratch config of 2 + 2 layers x 64 with a byte tokenizer, tied as `config` is."""
        given = cls.Config() if config is None else config
        scratch = replace(
            given.from_scratch or T5Scratch(),
            dim=64,
            num_layers=2,
            num_heads=4,
            ffn_dim=128,
            tokenizer="bytes",
        )
        tiny: Seq2Seq.Config = replace(given, weights="random", scratch=scratch)
        return tiny

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the block's class, of the encoder and of the decoder."""
        return {type(self.model.encoder.block[0])}

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render as plain text; see `PlainText.render`."""
        return self.text.render(conversation, generate=generate)

    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        """Run sequences (N, D) as a padded batch; return (M, V) logits at the selected positions."""
        ends = lengths.to(select.device).cumsum(0)
        owner = torch.searchsorted(ends, select, right=True)  # (M,)
        # Sequences in which nothing is selected are left out.
        used, row, counts = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)
        last_of = counts.cumsum(0) - 1
        first, last = select[last_of - counts + 1], select[last_of]  # (used,)
        starts = (ends - lengths.to(select.device))[used]
        places = list(zip(starts.tolist(), first.tolist(), last.tolist(), strict=True))
        prompts = [embeddings[start : begin + 1] for start, begin, _ in places]
        begun = self.embed(torch.tensor([self._start_id], device=embeddings.device)).to(embeddings.dtype)
        answers = [torch.cat([begun, embeddings[begin + 1 : end + 1]]) for _, begin, end in places]
        heard = Padded.stack(prompts)  # (used, L, D)
        output = self.model(
            inputs_embeds=heard.values,
            attention_mask=heard.mask().long(),
            # What follows an answer in its row is after all of its steps: the decoder is causal.
            decoder_inputs_embeds=nn.utils.rnn.pad_sequence(answers, batch_first=True),
            use_cache=False,
        )
        logits: Tensor = output.logits[row, select - first[row]]
        return logits

    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        """Encode prompts of (L_i, D) as one batch and decode with transformers' `generate` and cache."""
        stop_ids = [self.text.end]
        rows = self._continue(prompts, generation, stop_ids)
        return [until_stop(row[1:], stop_ids) for row in rows]

    @property
    def _start_id(self) -> int:
        return int(self.model.config.decoder_start_token_id)

    def _has_tied_head(self) -> bool:
        scratch = self.config.from_scratch
        if scratch is not None:
            return scratch.tie_embeddings
        assert self._pretrained is not None
        return "lm_head.weight" not in self._pretrained.tensor_names()

    def _scratch_config(self, scratch: T5Scratch) -> Any:
        sizes: dict[str, Any] = {
            "vocab_size": len(self.tokenizer),
            "d_model": scratch.dim,
            "d_kv": scratch.dim // scratch.num_heads,
            "d_ff": scratch.ffn_dim,
            "num_layers": scratch.num_layers,
            "num_heads": scratch.num_heads,
            "dropout_rate": scratch.dropout,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": scratch.tie_embeddings,  # also says whether states are scaled
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "decoder_start_token_id": self.tokenizer.pad_token_id,
        }
        return T5Config(**sizes)

    def _checked_config(self, pretrained: Pretrained) -> Any:
        config = pretrained.config()
        if config.model_type not in _MODEL_TYPES or pretrained.gguf is not None:
            kind = "GGUF" if pretrained.gguf is not None else config.model_type
            raise WeightsError(
                f"{self.config.weights}: is a {kind!r} model; llm 'seq2seq' takes {', '.join(_MODEL_TYPES)} "
                "with safetensors"
            )
        return config
