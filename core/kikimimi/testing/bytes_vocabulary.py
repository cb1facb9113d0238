"""The vocabulary that stands in for an LLM's tokens where adapters are checked: it needs no tokenizer."""

from kikimimi.vocabulary import BytesVocabulary

__all__ = ["BytesVocabulary"]
