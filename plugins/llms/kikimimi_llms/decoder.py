"""Decoder-only LLMs of transformers: Llama, and any other (Qwen, Gemma, Mistral, Phi-3, GPT-2, ...)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, StoppingCriteriaList
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from kikimimi import (
    CHAT_TEMPLATES,
    ChatTemplate,
    ComponentConfig,
    Conversation,
    Generation,
    LLMContext,
    Padded,
    Rendered,
    WeightsError,
    find_chat_template,
    install_packed_attention,
    packed_arguments,
)
from kikimimi_llms.decoder_batch import DecoderBatch
from kikimimi_llms.pretrained import Pretrained
from kikimimi_llms.rope import rope_per_sequence, switching_length
from kikimimi_llms.scratch import Scratch, scratch_config
from kikimimi_llms.transformers_llm import TransformersLLM, until_stop

_PACKED = "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi3 gpt2 olmo2 smollm3 granite qwen3_moe"
PACKED = frozenset(_PACKED.split())
"""Model types that run a pack as it is: proven one by one against transformers' own logits. Any other gets
its sequences as a padded batch: the same logits, with work on padding."""

Architecture = Literal["qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2", "granite"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_MIXTURES = {"qwen3_moe": "*.mlp.gate.weight"}
"""Mixtures of experts that are taken, proven as those in `PACKED` are, and what their routers are called."""


@dataclass(kw_only=True, frozen=True)
class DecoderConfig(ComponentConfig):
    """Options of every decoder."""

    weights: str = "random"
    """A Hub id, a folder, `package:...` (a GGUF file too), or `random` to train from scratch."""
    tokenizer: str | None = None
    """A Hub id, a folder or `package:...` whose tokenizer is taken, for weights that lie without one; None is
    that of the weights. Refused with `weights: random`."""
    scratch: Scratch | None = None
    """Sizes and tokenizer with `weights: random`; None is their defaults. Refused with other weights."""
    chat_template: str | None = None
    """Jinja, or the name of a shipped template (plain, vicuna, alpaca, ...), in place of the tokenizer's own,
    which base models lack; None is the tokenizer's own."""
    template_variables: dict[str, bool | str] = field(default_factory=dict)
    """Further variables of the chat template, such as `reasoning_effort: high`; they go before `thinking`."""
    thinking: bool = False
    """Whether the LLM is to think before it answers: what switches that in its chat template is set (Qwen3's
    `enable_thinking`, Granite's `thinking`, `reasoning_effort`, ...). Thoughts are not scored."""
    audio_start: str | None = None
    """Control token of the tokenizer before every clip (Qwen2-Audio: `<|audio_bos|>`); None is none."""
    audio_end: str | None = None
    """Control token of the tokenizer after every clip (Qwen2-Audio: `<|audio_eos|>`); None is none."""

    def __post_init__(self) -> None:
        if self.weights != "random" and self.scratch is not None:
            raise ValueError(f"scratch is read only with weights: random, not with {self.weights!r}")
        if self.weights == "random" and self.tokenizer is not None:
            raise ValueError(
                "tokenizer is read only with pretrained weights; scratch.tokenizer is for random"
            )
        if self.chat_template is not None:
            find_chat_template(self.chat_template)

    @property
    def from_scratch(self) -> Scratch | None:
        """The sizes of a decoder from scratch, or None for a pretrained one."""
        return (self.scratch or Scratch()) if self.weights == "random" else None

    def tiny_template(self) -> str | None:
        """Return the chat template where it is a shipped one that fits any tokenizer."""
        shipped = self.chat_template if self.chat_template in CHAT_TEMPLATES else None
        return shipped if shipped is not None and "eos_token" in find_chat_template(shipped) else None


class Decoder(TransformersLLM):
    """A decoder of transformers (`...ForCausalLM`), pretrained or from scratch.

    Args:
        config: Options.
        context: What the assembly knows.

    Attributes:
        name: The plugin's name, for messages.
        scratch_type: Model type of transformers that a decoder from scratch has.
        chat: The tokenizer with its chat template.
    """

    config: Any  # a DecoderConfig; each plugin has its own
    name: ClassVar[str]
    model_classes = MODEL_FOR_CAUSAL_LM_MAPPING
    scratch_type = "llama"

    def __init__(self, config: DecoderConfig, context: LLMContext) -> None:
        super().__init__(config, context)
        # A template may spell control tokens that only the model's own tokenizer has.
        own = not context.measured or config.weights == "random"
        self.chat = ChatTemplate(
            self.tokenizer,
            source=f"llm '{self.name}' ({config.weights})",
            template=config.chat_template if own else None,
            variables=config.template_variables if own else None,
            thinking=config.thinking and own,
            audio_start=config.audio_start,
            audio_end=config.audio_end,
        )
        self.model = self._new_model()
        self._rope_by_length = rope_per_sequence(self.model)
        self._packs = self.model.config.model_type in PACKED
        if self._packs:
            self.model.set_attn_implementation(install_packed_attention())
        self.dim = self.model.config.hidden_size
        self.vocab_size = self.model.config.vocab_size
        self.context_length = getattr(self.model.config, "max_position_embeddings", None)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        """Return a from-scratch config of 2 layers x 64 with a byte tokenizer, tied as `config` is."""
        defaults: Any = cls.Config()
        given = defaults if config is None else config
        # A pretrained model's structure is known to its files alone: its tiny stand-in is the default one.
        scratch = given.from_scratch or defaults.from_scratch
        return replace(
            given,
            weights="random",
            tokenizer=None,
            scratch=replace(
                scratch,
                dim=64,
                num_layers=2,
                num_heads=4,
                num_kv_heads=2 if scratch.num_kv_heads else None,
                ffn_dim=128,
                tokenizer="bytes",
            ),
            chat_template=given.tiny_template(),
            template_variables={},
            thinking=False,
        )

    def _tokenizer_source(self) -> Pretrained:
        given = self.config.tokenizer
        return super()._tokenizer_source() if given is None else Pretrained(given)

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the decoder layer's class."""
        layers = next(m for m in self.model.modules() if isinstance(m, nn.ModuleList) and len(m))
        return {type(layers[0])}

    def render(self, conversation: Conversation, *, generate: bool = False) -> Rendered:
        """Render through the chat template; see `ChatTemplate.render`."""
        return self.chat.render(conversation, generate=generate)

    def forward(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        """Run a pack (N, D); return (M, V) logits at the selected positions, formed nowhere else.

        A model type that is not in `PACKED` runs a padded batch, with logits at every column that holds a
        selected position.
        """
        if self._packs:
            output = self.model(**packed_arguments(embeddings, lengths), logits_to_keep=select)
            logits: Tensor = output.logits[0]
            return logits
        return self._forward_padded(embeddings, lengths, select)

    def _forward_padded(self, embeddings: Tensor, lengths: Tensor, select: Tensor) -> Tensor:
        lengths = lengths.to(embeddings.device)
        padded = Padded.stack(torch.split(embeddings, lengths.tolist()))  # (N, D) -> (B, L, D)
        ends = lengths.cumsum(0)
        row = torch.searchsorted(ends, select, right=True)
        columns, column = torch.unique(select - (ends - lengths)[row], return_inverse=True)
        mask = padded.mask().long()
        # Padding is at position 0, so that each row's positions tell its own length.
        positions = {"position_ids": (mask.cumsum(1) - 1) * mask} if self._rope_by_length else {}
        output = self.model(
            inputs_embeds=padded.values,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=columns,
            **positions,
        )
        logits: Tensor = output.logits[row, column]
        return logits

    def generate(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        """Continue prompts of (L_i, D) with transformers' `generate`, padded on the left.

        An answer ends at the latest where the context does, also before `max_new_tokens`; a warning says so
        where one did.

        Raises:
            ValueError: A prompt leaves no room in the context.
        """
        longest = max(len(prompt) for prompt in prompts)
        room = (self.context_length or longest + generation.max_new_tokens) - longest
        if room < 1:
            raise ValueError(
                f"a prompt of {longest} positions leaves no room in the context of {self.context_length}"
            )
        allowed = replace(generation, max_new_tokens=min(generation.max_new_tokens, room))
        answers = self._answers(prompts, allowed)
        cut = sum(len(answer) == room for answer in answers)
        if cut and room < generation.max_new_tokens:
            warnings.warn(
                f"{cut} of {len(answers)} answers end after {room} tokens, before max_new_tokens "
                f"({generation.max_new_tokens}): the context of llm '{self.name}' is {self.context_length} "
                "positions",
                stacklevel=2,
            )
        return answers

    def _answers(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        """Continue prompts; one that grows past where LongRoPE switches is read again with the long factors.

        What stands in the cache has the short ones.

        Raises:
            ValueError: Several beams would have to.
        """
        switch = switching_length(self.model)
        first = [0 if switch is None else max(0, switch + 1 - len(prompt)) for prompt in prompts]
        crossing = [row for row, number in enumerate(first) if 0 < number < generation.max_new_tokens]
        if crossing and generation.num_beams > 1:
            raise ValueError(
                f"beams cannot be followed past {switch} positions, where the factors of LongRoPE switch, "
                f"and a prompt of {len(prompts[crossing[0]])} may reach that with max_new_tokens "
                f"{generation.max_new_tokens}: set num_beams to 1, or max_new_tokens to at most "
                f"{min(first[row] for row in crossing)}"
            )
        answers: list[list[int]] = [[]] * len(prompts)
        whole = [row for row in range(len(prompts)) if row not in crossing]
        if whole:
            made = self._continue_until_stop([prompts[row] for row in whole], generation)
            for row, answer in zip(whole, made, strict=True):
                answers[row] = answer
        for row in crossing:
            answers[row] = self._across(prompts[row], first[row], generation)
        return answers

    def _across(self, prompt: Tensor, first: int, generation: Generation) -> list[int]:
        """Continue a prompt (L, D) by a first number of ids, and then by the rest."""
        (answer,) = self._continue_until_stop([prompt], replace(generation, max_new_tokens=first))
        if len(answer) < first:
            return answer
        ids = torch.tensor(answer, device=prompt.device)
        longer = torch.cat([prompt, self.embed(ids).to(prompt.dtype)])
        rest = replace(generation, max_new_tokens=generation.max_new_tokens - first)
        return answer + self._continue_until_stop([longer], rest)[0]

    def _continue_until_stop(self, prompts: Sequence[Tensor], generation: Generation) -> list[list[int]]:
        rows = self._continue(prompts, generation, self.chat.stop_ids, stopping_criteria=self._stopping())
        return [self._until_stop(row) for row in rows]

    def running_batch(self) -> DecoderBatch | None:
        """Return rows that share a cache; None for a model type that is not in `PACKED`."""
        return DecoderBatch(self.model, self.embed, self._until_stop) if self._packs else None

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids without control tokens, and without thoughts that stand between such tokens."""
        return super().decode(self.chat.outside_thoughts(ids))

    def _scratch_config(self, scratch: Scratch) -> Any:
        return scratch_config(self.scratch_type, scratch, self.tokenizer)

    def _stopping(self) -> StoppingCriteriaList:
        """Return what ends an answer besides the ids in `chat.stop_ids`."""
        return StoppingCriteriaList()

    def _until_stop(self, ids: list[int]) -> list[int]:
        return until_stop(ids, self.chat.stop_ids)


class Llama(Decoder):
    """A Llama decoder (Touvron et al. 2023, arXiv 2302.13971) through transformers' `LlamaForCausalLM`."""

    @dataclass(kw_only=True, frozen=True)
    class Config(DecoderConfig):
        """Options of the `llama` LLM."""

    name = "llama"

    def _checked_config(self, pretrained: Pretrained) -> Any:
        config = pretrained.config()
        if config.model_type != "llama":
            raise WeightsError(
                f"{self.config.weights}: is a {config.model_type!r} model; "
                f"llm '{self.name}' takes Llama-class models (llm 'causal_lm' takes others)"
            )
        return LlamaConfig(**{k: v for k, v in config.to_dict().items() if k != "quantization_config"})


class CausalLM(Decoder):
    """A decoder-only LLM of any architecture that transformers has (`AutoModelForCausalLM`).

    Remote code is never run. Sliding windows (Mistral, Gemma), capped scores and logits (Gemma 2) and scaled
    embeddings (Gemma, Granite) are those of the architecture. Model types in `PACKED` run sequences packed;
    any other runs them as a padded batch, with the same results.

    Of mixtures of experts only Qwen3's (`qwen3_moe`) are taken. Their routers stay as they were trained,
    whatever a stage trains: nothing here adds the loss that balances the experts (`router_aux_loss_coef`).
    LoRA reaches the layers of attention: the experts' matrices are one tensor, and no linear layers.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(DecoderConfig):
        """Options of the `causal_lm` LLM."""

        architecture: Architecture | None = None
        """Model type of transformers; None is that of the weights, and qwen2 from scratch. Weights have to be
        of it where both are given: then a tiny stand-in has the same layers (LoRA goes by their names)."""

    name = "causal_lm"

    def __init__(self, config: Config, context: LLMContext) -> None:
        self.scratch_type = config.architecture or "qwen2"
        super().__init__(config, context)
        routers = _MIXTURES.get(self.model.config.model_type, "")
        for name, parameter in self.model.named_parameters():
            if fnmatchcase(name, routers):
                parameter.requires_grad_(False)

    def _checked_config(self, pretrained: Pretrained) -> Any:
        config = pretrained.config()
        name = f"{self.config.weights}: is a {config.model_type!r} model"
        if type(config) not in self.model_classes or getattr(config, "is_encoder_decoder", False):
            raise WeightsError(
                f"{name}, which is no decoder; llm 'causal_lm' takes decoders, llm 'seq2seq' T5 and mT5"
            )
        if getattr(config, "is_decoder", True) is False and hasattr(config, "type_vocab_size"):
            raise WeightsError(f"{name} that reads in both directions (BERT's kind), not a decoder")
        mixture = any((getattr(config, experts, None) or 0) > 1 for experts in _EXPERTS)
        if mixture and config.model_type not in _MIXTURES:
            raise WeightsError(
                f"{name} with several experts, which llm 'causal_lm' does not take but of "
                f"{', '.join(map(repr, _MIXTURES))}"
            )
        wanted = self.config.architecture
        if wanted not in (None, config.model_type):
            raise WeightsError(f"{name}, and architecture says {wanted!r}")
        return config
