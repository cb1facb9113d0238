"""What requests may ask for. A parameter that is not here is refused: nothing is ignored.

Where OpenAI's clients send what changes nothing (`n=1`, `logprobs=false`), exactly that value is taken.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from kikimimi.contracts.generation import Generation

MAX_CLIPS = 32
"""Most clips of a conversation: each takes an encoder's window, however short it is."""
MAX_TURNS = 1000
"""Most turns of a conversation."""
MAX_PARTS = 2 * MAX_CLIPS + 1
"""Most parts of a turn: as many clips as there may be, and words around each."""
MAX_STOPS = 4
"""Most texts of `stop`, as OpenAI has it."""

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
"""What a transcript is written as."""
Temperature = Annotated[float, Field(ge=0, le=2)]


def _zero(given: float) -> float:
    if given != 0:
        raise ValueError("not supported here, and nothing is ignored; allowed: 0")
    return given


Zero = Annotated[float, AfterValidator(_zero)]


class Parameters(BaseModel):
    """Base of what is asked for: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        allowed = [field.alias or name for name, field in cls.model_fields.items()]
        for name in data if isinstance(data, dict) else ():
            if name not in allowed:
                raise PydanticCustomError("not_supported", "{name}", {"name": name, "allowed": allowed})
        return data


class TranslationRequest(Parameters):
    """Fields of the form of `POST /v1/audio/translations`, its file apart."""

    model: str
    prompt: str | None = None
    response_format: ResponseFormat = "json"
    temperature: Temperature | None = None


class TranscriptionRequest(TranslationRequest):
    """Fields of the form of `POST /v1/audio/transcriptions`, its file apart."""

    language: str | None = None
    chunking_strategy: Literal["auto"] | None = None
    stream: bool = False
    timestamp_granularities: list[Literal["segment", "word"]] = Field([], alias="timestamp_granularities[]")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.stream and self.response_format not in ("json", "text"):
            raise ValueError(
                f"stream: events carry text alone: response_format {self.response_format!r} comes whole; "
                "allowed with stream: json, text"
            )
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise ValueError(
                "timestamp_granularities[]: times are told in response_format verbose_json alone"
            )
        return self


class InputAudio(Parameters):
    """A clip: base64 of a file, and what kind of file that is."""

    data: str
    format: str


class ContentPart(Parameters):
    """Words or a clip of a turn."""

    type: Literal["text", "input_audio"]
    text: str | None = None
    input_audio: InputAudio | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        other = {"text": "input_audio", "input_audio": "text"}[self.type]
        if getattr(self, self.type) is None or getattr(self, other) is not None:
            raise ValueError(f"a part of type {self.type!r} holds {self.type!r}, and not {other!r}")
        return self


def _parts(content: Any) -> Any:
    if not isinstance(content, str | list):
        raise ValueError("expected a text, or a list of parts of type 'text' or 'input_audio'")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatMessage(Parameters):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[
        list[ContentPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), BeforeValidator(_parts)
    ]

    @model_validator(mode="after")
    def _heard(self) -> Self:
        if self.role != "user" and any(part.input_audio for part in self.content):
            raise ValueError("clips stand in turns of the user alone")
        return self


class StreamOptions(Parameters):
    """How a stream ends."""

    include_usage: bool = False


class TextFormat(Parameters):
    """The one format of an answer."""

    type: Literal["text"]


def _stops(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class ChatRequest(Parameters):
    """Body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_TURNS)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: Annotated[
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOPS)] | None,
        BeforeValidator(_stops),
    ] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    modalities: Annotated[list[Literal["text"]], Field(fail_fast=True)] | None = None
    response_format: TextFormat | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: say how a stream ends: set stream to true, or leave them out")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("max_tokens: the older name of max_completion_tokens: leave one of them out")
        if self.messages[-1].role == "assistant":
            raise ValueError("messages: the last turn is an answer already: end with one of the user")
        clips = sum(part.input_audio is not None for turn in self.messages for part in turn.content)
        if clips > MAX_CLIPS:
            raise ValueError(f"messages: {clips} clips; at most {MAX_CLIPS} are heard in one conversation")
        return self

    def generation(self, usual: Generation) -> Generation:
        """Return how the answer is made.

        Args:
            usual: Generation of the run, for what is not asked for.

        Raises:
            ValueError: What is asked for does not go together.
        """
        longest = self.max_completion_tokens or self.max_tokens
        return adjusted(usual, longest, self.temperature, self.top_p)


def adjusted(
    usual: Generation,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
) -> Generation:
    """Return a way to generate with what is asked for; None leaves it as it is usual.

    Raises:
        ValueError: What is asked for does not go together.
    """
    warm = usual.temperature if temperature is None else temperature
    # A run that samples has a nucleus, which means nothing to who asks for greedy answers.
    nucleus = (usual.top_p if warm > 0 else 1.0) if top_p is None else top_p
    return Generation(
        max_new_tokens=max_new_tokens or usual.max_new_tokens,
        temperature=warm,
        top_p=nucleus,
        num_beams=usual.num_beams,
    )
