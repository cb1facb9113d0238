"""Llama-class decoders, pretrained from any weights source or from scratch."""

from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig

from kikimimi import WeightsError
from kikimimi_llms.decoder import Decoder, DecoderConfig
from kikimimi_llms.pretrained import Pretrained


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
