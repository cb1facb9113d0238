"""What a model is asked for the guards, and what it said: losses of held-out text, and answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from typing_extensions import TypedDict

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.generation import Generation
from kikimimi.contracts.vocabulary import Vocabulary
from kikimimi.data.corpus import Corpus
from kikimimi.data.shards.record import Record
from kikimimi.errors import DataError, RequestError
from kikimimi.guards.sets import held_out_texts, short_questions
from kikimimi.guards.sounds import speechless_clips
from kikimimi.guards.wording import script_of
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.recipe import Recipe
from kikimimi.recipe.schema import GuardLanguage, Guards
from kikimimi.recipe.show import dump_plain, plain

NUM_CLIPS = 6
"""How many clips of an evaluation are asked about in other words."""
LONGEST_CLIP = 15.0
"""Longest of these clips [s]."""
LEAST_TEXTS = 10
"""Fewest sentences, or questions, of a language of which something is said."""
NUM_WRITTEN = 40
"""Most requests that stand in for the sets of the package."""
OWN = "own"
"""What is said of these in the place of a language."""
_TRIED = 50  # records of an evaluation, to find clips whose transcript is asked for
_WRITE: dict[GuardLanguage, str] = {
    "ja": "短い文を一つ書いてください。",
    "en": "Write one short sentence.",
}
_ONE_WORD: dict[GuardLanguage, str] = {
    "ja": "{}一語で答えてください。",
    "en": "{} Answer with one word.",
}
INSTRUCTIONS: dict[GuardLanguage, dict[str, str]] = {
    "ja": {
        "yes": "音声の内容にかかわらず、「はい」とだけ答えてください。",
        "count": "この音声では何人が話していますか。数字だけで答えてください。",
        "topic": "この音声の話題を一語で答えてください。",
        "translate": "この音声を英語に訳してください。",
    },
    "en": {
        "yes": "Whatever is said in this clip, answer with the single word yes.",
        "count": "How many people speak in this clip? Answer with a number alone.",
        "topic": "Name the topic of this clip in one word.",
        "translate": "Translate what is said into Japanese.",
    },
}
"""What else is asked about clips, by language and name."""
ELSEWHERE = "translate"
"""The instruction whose answer is in another language than its request."""

AskedKind = Literal["question", "silence", "transcript", "instruction"]


class GuardReply(TypedDict):
    """An answer.

    Attributes:
        kind: What was asked: a question in writing; a transcript of a clip in which nobody speaks; one of a
            clip of an evaluation; something else about that.
        name: Number of the question, sound, or key of the clip.
        language: Language of the request.
        asked: The request; of a clip, the name of the instruction.
        answer: What the model wrote.
        reference: What is said in the clip, or the right answer to an evaluation's request; else empty.
    """

    kind: AskedKind
    name: str
    language: GuardLanguage
    asked: str
    answer: str
    reference: str


class Readings(TypedDict):
    """What was measured of one model.

    Attributes:
        identity: What it depends on, by name: weights, sets, and how was generated.
        losses: Negative log-probability [nats] and tokens of each sentence, by language, or `OWN`.
        replies: The answers.
        missing: Why something is not there, by what it is: ``loss ja``, ``questions en``, ``clips``.
    """

    identity: dict[str, str]
    losses: dict[str, list[tuple[float, int]]]
    replies: list[GuardReply]
    missing: dict[str, str]


_Request = tuple[GuardReply, Prompt]


@dataclass(frozen=True)
class AskedClip:
    """A clip of which an evaluation asks for the transcript.

    Attributes:
        record: Where it is.
        prompt: The evaluation's request.
        reference: What is said.
    """

    record: Record
    prompt: Conversation
    reference: str

    @property
    def language(self) -> GuardLanguage:
        """The language that is spoken: what the record says, or the script of the transcript."""
        said = str(self.record.json.get("language", "")).lower()
        return "ja" if said.startswith("ja") or script_of(self.reference) == "ja" else "en"


@dataclass(frozen=True)
class SpokenPart:
    """An evaluation that asks for transcripts, from which clips are taken.

    Attributes:
        corpus: Its data.
        clips: The clips.
        identity: What tells it from another.
    """

    corpus: Corpus
    clips: list[AskedClip]
    identity: str

    @classmethod
    def find(cls, recipe: Recipe) -> SpokenPart | None:
        """Return the first evaluation of a recipe that asks for transcripts, or None.

        One whose data is not there, or cannot be used, is passed over.
        """
        for corpus, identity in _corpora(recipe):
            if clips := _transcribed(corpus, recipe.seed):
                return cls(corpus, clips, identity)
        return None


@dataclass(frozen=True)
class WrittenPart:
    """An evaluation that asks for something else than transcripts, in writing.

    It stands in for the sets of the package where the LLM's vocabulary cannot spell these.

    Attributes:
        conversations: Requests with their answers, by name.
        identity: What tells it from another.
    """

    conversations: dict[str, Conversation]
    identity: str

    @classmethod
    def find(cls, recipe: Recipe) -> WrittenPart | None:
        """Return the first evaluation of a recipe that can be asked so, or None."""
        for corpus, identity in _corpora(recipe):
            if conversations := _written(corpus, recipe.seed):
                return cls(conversations, identity)
        return None


def _corpora(recipe: Recipe) -> Iterator[tuple[Corpus, str]]:
    """Yield the data of the evaluations of a recipe that is there, and what tells it from other data."""
    for name, evaluation in recipe.evaluate.items():
        try:
            corpus = Corpus.open(name, evaluation)
        except RequestError:
            continue
        task = " ".join(dump_plain(plain(evaluation.task)).split())
        yield corpus, f"{name}, {corpus.shards.digest}, {task}"


def _written(corpus: Corpus, seed: int) -> dict[str, Conversation]:
    rows = range(len(corpus.shards))
    found: dict[str, Conversation] = {}
    for row in Random(seed).sample(rows, min(NUM_WRITTEN, len(rows))):
        record = corpus.shards.read(row)
        try:
            spoken = corpus.conversation(record)
            said = spoken.written()
        except ValueError:
            continue
        except DataError:
            return {}
        reference = spoken.reference().strip()
        if reference in [(text or "").strip() for text in spoken.transcripts()]:
            return {}  # transcripts are asked for
        if reference:
            found[f"{OWN}/{row} {record.key}"] = said
    return found


def _transcribed(corpus: Corpus, seed: int) -> list[AskedClip]:
    shards = corpus.shards
    rows = [
        row for row in range(len(shards)) if shards.clips[row] == 1 and shards.longest[row] <= LONGEST_CLIP
    ]
    found: list[AskedClip] = []
    for row in Random(seed).sample(rows, min(_TRIED, len(rows))):
        record = shards.read(row)
        try:
            conversation = corpus.conversation(record)
        except DataError:
            return []
        reference, transcripts = conversation.reference().strip(), conversation.transcripts()
        if len(transcripts) != 1 or not transcripts[0] or not reference:
            continue
        if transcripts[0].strip() != reference:
            return []  # something else is asked for
        found.append(AskedClip(record, conversation.prompt(), reference))
        if len(found) == NUM_CLIPS:
            break
    return found


def read_model(
    engine: Engine,
    guards: Guards,
    spoken: SpokenPart | None,
    written: WrittenPart | None,
    identity: dict[str, str],
    *,
    hears: bool,
) -> Readings:
    """Ask a model all that the guards need.

    Args:
        engine: The model.
        guards: What is asked for.
        spoken: Where clips are from, if anywhere.
        written: What is asked where its vocabulary spells none of the sets, if anything.
        identity: What the readings depend on.
        hears: Whether it is asked about clips, too: before training it cannot be.

    Returns:
        What it said; what cannot be asked of it is missing, with the reason.
    """
    readings: Readings = {"identity": identity, "losses": {}, "replies": [], "missing": {}}
    requests: dict[str, list[_Request]] = {}
    vocabulary = engine.model.llm.vocabulary
    for language in guards.languages:
        texts = [text for text in held_out_texts(language) if _spells(vocabulary, text)]
        said = [_conversation(_WRITE[language]).answered(text) for text in texts]
        _read_losses(engine, language, said, readings)
        requests[f"questions {language}"] = list(_questions(vocabulary, language))
    if written is not None and not any(readings["losses"].values()):
        _read_losses(engine, OWN, list(written.conversations.values()), readings)
        requests[f"questions {OWN}"] = list(_own_questions(written))
    if hears and spoken is None:
        readings["missing"] |= dict.fromkeys(
            ("silence", "clips"), "no evaluation of the recipe, whose data is there, asks for transcripts"
        )
    elif hears and spoken is not None:
        requests["silence"] = list(_silence(engine, spoken))
        requests["clips"] = list(_clips(engine, spoken))
    generation = Generation(max_new_tokens=guards.max_new_tokens)
    for what, asked in requests.items():
        if what.startswith("questions") and len(asked) < LEAST_TEXTS:
            readings["missing"][what] = f"the LLM's vocabulary spells {len(asked)} of the questions"
            continue
        try:
            answers = engine.answer([prompt for _, prompt in asked], generation)
        except DataError as error:
            readings["missing"][what] = str(error)
            continue
        for (reply, _), answer in zip(asked, answers, strict=True):
            reply["answer"] = str(answer)
            readings["replies"].append(reply)
    return readings


def _read_losses(engine: Engine, what: str, said: Sequence[Conversation], readings: Readings) -> None:
    if len(said) < LEAST_TEXTS:
        readings["missing"][f"loss {what}"] = f"the LLM's vocabulary spells {len(said)} of the sentences"
        return
    try:
        found = engine.log_probabilities(said)
    except DataError as error:
        readings["missing"][f"loss {what}"] = str(error)
        return
    readings["losses"][what] = [(-log_probability, tokens) for log_probability, tokens in found]


def _spells(vocabulary: Vocabulary, text: str) -> bool:
    """Tell whether a vocabulary can say a text: its ids give the same text again, but for white space."""
    again = vocabulary.decode(vocabulary.encode(text))
    one, other = ("".join(unicodedata.normalize("NFKC", said).split()) for said in (text, again))
    return one == other


def _conversation(text: str) -> Conversation:
    return Conversation((Message("user", (TextPart(text),)),))


def _questions(vocabulary: Vocabulary, language: GuardLanguage) -> Iterator[_Request]:
    for number, one in enumerate(short_questions(language)):
        asked = _ONE_WORD[language].format(one.question)
        if _spells(vocabulary, asked) and any(_spells(vocabulary, answer) for answer in one.answers):
            name = f"{language}/{number}"
            yield _reply("question", name, language, asked), Prompt(name, _conversation(asked), [])


def _own_questions(written: WrittenPart) -> Iterator[_Request]:
    for name, conversation in written.conversations.items():
        reference, prompt = conversation.reference().strip(), conversation.prompt()
        texts = [part.text or "" for message in prompt.messages for part in message.parts]
        language = script_of(reference) or "en"
        yield _reply("question", name, language, "\n".join(texts), reference), Prompt(name, prompt, [])


def _silence(engine: Engine, spoken: SpokenPart) -> Iterator[_Request]:
    """Put clips in which nobody speaks in the place of the first one of an evaluation."""
    clip = spoken.clips[0]
    for sound in speechless_clips(engine.sample_rate, engine.max_seconds):
        samples = [torch.from_numpy(sound.samples)]
        yield (
            _reply("silence", sound.name, clip.language, "transcript"),
            Prompt(sound.name, clip.prompt, samples),
        )


def _clips(engine: Engine, spoken: SpokenPart) -> Iterator[_Request]:
    for clip in spoken.clips:
        samples = spoken.corpus.waveforms(clip.record, clip.prompt.clips(), engine.sample_rate)
        limit = engine.max_seconds
        if limit is not None and any(len(one) > limit * engine.sample_rate for one in samples):
            continue
        key, language = clip.record.key, clip.language
        yield (
            _reply("transcript", key, language, "transcript", clip.reference),
            Prompt(clip.record.where, clip.prompt, samples),
        )
        for name, instruction in INSTRUCTIONS[language].items():
            yield (
                _reply("instruction", key, language, name, clip.reference),
                Prompt(clip.record.where, asked_otherwise(clip.prompt, instruction), samples),
            )


def asked_otherwise(prompt: Conversation, instruction: str) -> Conversation:
    """Return a prompt about a clip with another instruction in place of the words beside the clip."""
    messages = list(prompt.messages)
    place = max(
        number
        for number, message in enumerate(messages)
        if any(isinstance(part, AudioPart) for part in message.parts)
    )
    parts = messages[place].parts
    clip = next(part for part in parts if isinstance(part, AudioPart))
    first = bool(parts) and isinstance(parts[0], TextPart)
    both = (TextPart(instruction), clip) if first else (clip, TextPart(instruction))
    messages[place] = Message(messages[place].role, both)
    return Conversation(tuple(messages), None, prompt.meta)


def _reply(
    kind: AskedKind, name: str, language: GuardLanguage, asked: str, reference: str = ""
) -> GuardReply:
    return {
        "kind": kind,
        "name": name,
        "language": language,
        "asked": asked,
        "answer": "",
        "reference": reference,
    }
