"""A tokenizer that reads text in which some stretches are somebody's words: they never become control tokens.

The text is encoded as one piece, so that ids are the tokenizer's own; a clip is one noncharacter in it, and
splits the text as any control token does. It is cut only where words spell a control token, inside that
spelling, and where an answer's first characters would change the tokens before it. What follows a cut is
encoded as in the middle of a text: without the blank that SentencePiece puts before one.
"""

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Tokenizer

from kikimimi.console.words import nearest
from kikimimi.contracts.component import Stretch
from kikimimi.contracts.conversation import Role

# A noncharacter of Unicode: no text that people write holds it.
AUDIO = "\ufdd1"
AUDIO_ID = -1
SLOT_ID = 0
"""The placeholder at a slot."""


@dataclass(frozen=True)
class Token:
    """A token and the characters that it stands for, [start, end); `id` is `AUDIO_ID` for a clip."""

    id: int
    start: int
    end: int


class GuardedTokenizer:
    """A fast tokenizer of transformers, guarded.

    Args:
        tokenizer: The tokenizer; a copy of it is used.
        source: What to call the tokenizer in messages.
        spelled: Text of a template: the tokens that it spells are control tokens, too.
        audio_start: Control token to put before every slot, or None.
        audio_end: Control token to put after every slot, or None.

    Attributes:
        control_ids: The tokens that words never become.

    Raises:
        ValueError: It does not say which characters a token stands for, or a token does not exist.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        source: str,
        spelled: str = "",
        audio_start: str | None = None,
        audio_end: str | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{source}: needs a fast tokenizer (tokenizer.json), for character offsets")
        self.source = source
        self._audio_start = _one_token(tokenizer, audio_start, option="audio_start", source=source)
        self._audio_end = _one_token(tokenizer, audio_end, option="audio_end", source=source)
        self._control = _control_tokens(tokenizer, spelled) | self._audio_start | self._audio_end
        self.control_ids = set(self._control.values())
        self._spelling = {token_id: token for token, token_id in self._control.items()}
        self._unknown: int | None = tokenizer.unk_token_id
        self._outer: Any = copy.deepcopy(tokenizer)
        self._outer.add_tokens([AddedToken(AUDIO, special=True, normalized=False)], special_tokens=True)
        self._audio = self._outer.convert_tokens_to_ids(AUDIO)
        self._inner = _without_prefix(self._outer.backend_tokenizer)

    def encode(
        self, text: str, contents: Sequence[tuple[int, int]], begins: Sequence[int] = ()
    ) -> list[Token]:
        """Encode text.

        Args:
            text: The text; a clip is `AUDIO`.
            contents: The stretches [start, end) that are somebody's words, ascending.
            begins: Where generation begins to write: the tokens before are those of the text before, alone.

        Raises:
            ValueError: Words would become a control token, however the text is cut.
        """
        cuts, resumes = self._cuts(text, contents)
        while True:
            tokens = list(self._encode(text, sorted(cuts), sorted(resumes)))
            places = (self._place_of_cut(text, token, contents) for token in tokens)
            found = {place for place in places if place is not None}
            found = found or {
                begin for begin in begins if self._reaches_back(text, begin, tokens, cuts, resumes)
            }
            if not found:
                return tokens
            cuts |= found

    def stretches(self, token: Token, role: Role | None, *, loss: bool) -> Iterator[Stretch]:
        """Yield what a token is in a rendering: a clip is a slot between its control tokens.

        Args:
            token: What `encode` gave.
            role: Who says it; None where the template adds it.
            loss: Whether it is a target, where it is no clip.
        """
        if token.id == AUDIO_ID:
            yield "template", None, list(self._audio_start.values()), False
            yield "audio", role, [SLOT_ID], False
            yield "template", None, list(self._audio_end.values()), False
        else:
            yield "template" if role is None else "text", role, [token.id], loss

    def _cuts(self, text: str, contents: Sequence[tuple[int, int]]) -> tuple[set[int], set[int]]:
        """Return where to cut, and where clips and the frame's own control tokens start."""
        cuts, resumes = set(), set(_occurrences(text, AUDIO))
        for token in self._control:
            for start in _occurrences(text, token):
                content = _overlapping(contents, start, start + len(token))
                if content is None:
                    resumes.add(start)
                elif len(token) > 1:
                    cuts.add(max(start + 1, content[0]))
        return cuts, resumes

    def _place_of_cut(self, text: str, token: Token, contents: Sequence[tuple[int, int]]) -> int | None:
        """Return where to cut a control token that words became, or None where the token is right."""
        if token.id not in self.control_ids or token.id == self._unknown:
            return None
        # A token of the frame may take white space of the words next to it; it is where it is spelled.
        spelling = self._spelling[token.id]
        start = text.find(spelling, token.start, token.end)
        start, end = (start, start + len(spelling)) if start >= 0 else (token.start, token.end)
        content = _overlapping(contents, start, end)
        if content is None:
            return None
        place = max(start + 1, content[0])
        if place >= end:
            raise ValueError(
                f"{self.source}: the text {text[start:end]!r} would become a control token of the tokenizer, "
                "and it cannot be encoded otherwise"
            )
        return place

    def _reaches_back(
        self, text: str, begin: int, tokens: list[Token], cuts: set[int], resumes: set[int]
    ) -> bool:
        """Whether what stands at a place changes the tokens before it: a blank merges into the next word."""
        if begin in cuts:
            return False
        # A control token or a clip splits the text, so the tokens before one are as they are in any text.
        first = max((place for place in resumes if place < begin), default=0)
        between = sorted(place for place in cuts if first < place < begin)
        alone = [t.id for t in self._encode(text[:begin], between, sorted(resumes), first=first)]
        found = [t.id for t in tokens if t.end > first]
        return found[: len(alone)] != alone

    def _encode(self, text: str, cuts: list[int], resumes: list[int], *, first: int = 0) -> Iterable[Token]:
        for start, end in pairwise([first, *cuts, len(text)]):
            if start == first:
                yield from self._encode_piece(text, start, end, inner=False)
                continue
            # After a cut the text goes on as in its middle, until the next control token or clip.
            stop = next((place for place in resumes if start <= place < end), end)
            yield from self._encode_piece(text, start, stop, inner=True)
            yield from self._encode_piece(text, stop, end, inner=False)

    def _encode_piece(self, text: str, start: int, end: int, *, inner: bool) -> Iterable[Token]:
        if start == end:
            return
        if inner:
            encoding = self._inner.encode(text[start:end], add_special_tokens=False)
            ids, offsets = encoding.ids, encoding.offsets
        else:
            encoded = self._outer(text[start:end], add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        passed = 0
        for token_id, (left, right) in zip(ids, offsets, strict=True):
            # Some tokenizers leave white space out of the offsets, or give a blank of their own no width.
            first = min(left, passed)
            passed = max(passed, right)
            given = AUDIO_ID if token_id == self._audio else token_id
            yield Token(given, start + first, start + max(right, first + 1))


def _control_tokens(tokenizer: Any, spelled: str) -> dict[str, int]:
    """Return the special tokens, and others that were added to the vocabulary where a text spells them."""
    special = set(tokenizer.all_special_ids) | {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    named = {tokenizer.convert_ids_to_tokens(token_id): token_id for token_id in special}
    return {
        token: token_id
        for token, token_id in {**named, **tokenizer.get_added_vocab()}.items()
        if token.strip() and (token_id in special or token in spelled)
    }


def _one_token(tokenizer: Any, token: str | None, *, option: str, source: str) -> dict[str, int]:
    """Return an option's control token with its id, or nothing for None.

    Raises:
        ValueError: It is not one token of the vocabulary, or only a character.
    """
    if token is None:
        return {}
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if len(token) < 2 or token not in vocabulary:
        known = [name for name in vocabulary if name[:1] == token[:1]]
        raise ValueError(
            f"{option}: {token!r} is not one control token of the vocabulary of {source}."
            f"{nearest(token, known)}"
        )
    return {token: vocabulary[token]}


def _without_prefix(backend: Tokenizer) -> Tokenizer:
    """Return a copy that puts no blank before a text."""
    state = json.loads(backend.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        state[part] = _strip_prefix(state[part])
    copied: Tokenizer = Tokenizer.from_str(json.dumps(state))
    return copied


def _strip_prefix(step: Any) -> Any:
    """Take the prefix out of a normaliser or pre-tokeniser, as it stands in `tokenizer.json`."""
    if step is None or _is_prefix(step):
        return None
    step = dict(step)
    if step["type"] == "Replace" and step["pattern"].get("Regex") == "^":
        step["pattern"] = {"Regex": r"(?<=\n)^"}  # that engine's ^ is the start of every line
    for key in ("normalizers", "pretokenizers"):
        if key in step:
            step[key] = [kept for kept in map(_strip_prefix, step[key]) if kept is not None]
    if step["type"] == "Metaspace":
        step["prepend_scheme"] = "never"
    if "add_prefix_space" in step:
        step["add_prefix_space"] = False
    return step


def _is_prefix(step: dict[str, Any]) -> bool:
    # A prefix is spelled as such, or as the replacement of a text's start.
    kind: str = step["type"]
    return kind == "Prepend" or (kind == "Replace" and step["pattern"].get("Regex") == "\\A")


def _occurrences(text: str, part: str) -> Iterable[int]:
    position = text.find(part)
    while position >= 0:
        yield position
        position = text.find(part, position + 1)


def _overlapping(stretches: Iterable[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    for stretch in stretches:
        if start < stretch[1] and end > stretch[0]:
            return stretch
    return None
