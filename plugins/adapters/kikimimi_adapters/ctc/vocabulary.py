"""What transcripts are spelled with where an adapter learns from them."""

from collections.abc import Sequence
from typing import Any

from kikimimi import (
    AdapterContext,
    BytesVocabulary,
    CharacterVocabulary,
    TokenizerVocabulary,
    Vocabulary,
    WeightsError,
    WeightsFiles,
)

FILE = "ctc_vocabulary.json"
"""Where the characters of the training data are kept."""


class HeadVocabulary(Vocabulary):
    """The characters of a CTC head: `vocab.json` as Wav2Vec2's tokenizer writes it.

    A character that is not in it as it stands is looked for in upper and in lower case, and is the unknown
    token otherwise. A space is the word delimiter.

    Args:
        id_of: The label of each token.
        unknown: The label of the unknown token.
        delimiter: What a space is written as.
        size: Labels of the head.
    """

    def __init__(self, id_of: dict[str, int], unknown: int, delimiter: str, size: int) -> None:
        self.size = size
        self._id_of = id_of
        self._unknown = unknown
        self._delimiter = delimiter
        self._token_of = {label: token for token, label in id_of.items()}

    @classmethod
    def read(cls, files: WeightsFiles, size: int, blank_id: int) -> Vocabulary:
        """Read the labels of a head from `vocab.json`, or from `tokenizer.json` where there is only that.

        Args:
            files: Of a CTC model.
            size: Labels that its head has.
            blank_id: The label that no character may become.

        Raises:
            WeightsError: There is neither file, or it does not fit.
        """
        if "vocab.json" not in files.files:
            if "tokenizer.json" not in files.files:
                raise WeightsError(
                    f"{files.source}: says nowhere what the labels of its head are. Looked for "
                    "vocab.json and tokenizer.json"
                )
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(files.path("tokenizer.json")))
            return TokenizerVocabulary(tokenizer, size)
        id_of: dict[str, Any] = files.read_json("vocab.json")
        wrong = [
            token for token, label in id_of.items() if not (isinstance(label, int) and 0 <= label < size)
        ]
        if wrong:
            raise WeightsError(
                f"{files.source}: vocab.json has labels that are no numbers below {size}, the number of the "
                f"head's: {', '.join(map(repr, wrong[:5]))}. A vocabulary for each language is not read"
            )
        settings: dict[str, Any] = {}
        if "tokenizer_config.json" in files.files:
            settings = files.read_json("tokenizer_config.json")
        unknown = settings.get("unk_token", "<unk>")
        # Older files write a token as {"content": "<unk>", ...}.
        unknown = unknown["content"] if isinstance(unknown, dict) else unknown
        if unknown not in id_of:
            raise WeightsError(
                f"{files.source}: vocab.json has no {unknown!r}, which stands for a character that the "
                "head does not know"
            )
        unknown_id = id_of[unknown]
        id_of = {token: label for token, label in id_of.items() if label != blank_id}
        return cls(id_of, unknown_id, settings.get("word_delimiter_token") or "|", size)

    def encode(self, text: str) -> list[int]:
        """Return one label per character."""
        return [self._label(self._delimiter if character == " " else character) for character in text]

    def _label(self, character: str) -> int:
        for spelled in (character, character.upper(), character.lower()):
            if spelled in self._id_of:
                return self._id_of[spelled]
        return self._unknown

    def decode(self, ids: Sequence[int]) -> str:
        """Return the tokens of labels."""
        return "".join(self._token_of.get(label, "") for label in ids).replace(self._delimiter, " ")


def build_vocabulary(name: str, context: AdapterContext) -> Vocabulary:
    """Return the vocabulary of a new head.

    Raises:
        ValueError: There is nothing to build it from.
    """
    if name == "bytes":
        return BytesVocabulary()
    if name == "llm":
        if context.vocabulary is None:
            raise ValueError(
                "vocabulary: llm needs an LLM, and there is none here. Allowed: characters, bytes"
            )
        return context.vocabulary
    if context.assets is not None and (context.assets / FILE).exists():
        return CharacterVocabulary.load(context.assets / FILE)
    if context.texts is None:
        raise ValueError(
            "vocabulary: characters is built from the transcripts of the training data, and there are none "
            "here. Allowed without: bytes, llm"
        )
    return CharacterVocabulary.of_texts(context.texts())
