"""Chat as a task: the record already is a conversation."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from kikimimi import (
    AudioPart,
    Conversation,
    Message,
    Task,
    TaskConfig,
    Text,
    TextPart,
    listing,
    nearest,
    parse_conversation,
)


@dataclass(kw_only=True, frozen=True)
class ChatConfig(TaskConfig):
    """Options of the task `chat`."""

    request: Text | None = None
    """Text beside the audio in every turn of the user that holds audio alone; null leaves them alone."""
    order: Literal["audio_first", "text_first"] = "audio_first"
    """Whether such a turn begins with the audio or with the request."""

    def __post_init__(self) -> None:
        if self.request is None and self.order != "audio_first":
            raise ValueError("order: says where the request stands, and there is none")


class Chat(Task):
    """Takes the conversation that stands in the record: ``{"messages": [...]}``."""

    Config = ChatConfig
    config: ChatConfig

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Read the record's conversation.

        Args:
            record: See `kikimimi.contracts.conversation.parse_conversation`.
            clips: The record's audio members; each clip that a turn names must be among them.
            rng: Not used: nothing is chosen.

        Raises:
            ValueError: The record is no conversation, is malformed, or names a clip that is not there.
        """
        if "messages" not in record and "text" in record:
            raise ValueError(
                "messages: the record is a labelled clip, not a conversation: use a task such as 'asr'"
            )
        conversation = parse_conversation(record)
        for clip in conversation.clips():
            if clip not in clips:
                raise ValueError(
                    f"a turn names the clip {clip!r}, which the record lacks.{nearest(clip, clips)} "
                    f"Clips: {listing(clips)}"
                )
        if self.config.request is None:
            return conversation
        return replace(
            conversation, messages=tuple(self._asked(message) for message in conversation.messages)
        )

    def _asked(self, message: Message) -> Message:
        """Put the request into a turn of the user that is spoken and nothing else."""
        if message.role != "user" or not all(isinstance(part, AudioPart) for part in message.parts):
            return message
        request = (TextPart(self.config.request or ""),)
        first = self.config.order == "audio_first"
        return replace(message, parts=message.parts + request if first else request + message.parts)

    def phrasings(self) -> list[str]:
        """Return the request, where there is one."""
        return [] if self.config.request is None else [self.config.request]

    def question(self, language: str | None) -> Conversation:
        """Raise: what is asked stands in each record.

        Raises:
            ValueError: Always.
        """
        raise ValueError("task 'chat' has no fixed question: the records bring their own")
