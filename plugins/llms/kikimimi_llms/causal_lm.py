"""Any decoder of transformers: Qwen, Gemma, Mistral, Phi-3, GPT-2, ..."""

from dataclasses import dataclass
from typing import Any, Literal

from kikimimi import LLMContext, WeightsError
from kikimimi_llms.decoder import Decoder, DecoderConfig
from kikimimi_llms.pretrained import Pretrained

Architecture = Literal["qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2"]

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


class CausalLM(Decoder):
    """A decoder-only LLM of any architecture that transformers has (`AutoModelForCausalLM`).

    Remote code is never run. Sliding windows (Mistral, Gemma), capped scores and logits (Gemma 2) and scaled
    embeddings (Gemma) are those of the architecture. Model types in `decoder.PACKED` run sequences packed;
    any other runs them as a padded batch, with the same results.
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

    def _checked_config(self, pretrained: Pretrained) -> Any:
        config = pretrained.config()
        name = f"{self.config.weights}: is a {config.model_type!r} model"
        if type(config) not in self.model_classes or getattr(config, "is_encoder_decoder", False):
            raise WeightsError(
                f"{name}, which is no decoder; llm 'causal_lm' takes decoders, llm 'seq2seq' T5 and mT5"
            )
        if getattr(config, "is_decoder", True) is False and hasattr(config, "type_vocab_size"):
            raise WeightsError(f"{name} that reads in both directions (BERT's kind), not a decoder")
        if any((getattr(config, experts, None) or 0) > 1 for experts in _EXPERTS):
            raise WeightsError(f"{name} with several experts, which llm 'causal_lm' does not take")
        wanted = self.config.architecture
        if wanted not in (None, config.model_type):
            raise WeightsError(f"{name}, and architecture says {wanted!r}")
        return config
