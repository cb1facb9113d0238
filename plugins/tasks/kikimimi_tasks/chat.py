"""Chat as a task: the record already is a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from kikimimi.conversation import Conversation, parse_conversation
from kikimimi.errors import listing, nearest
from kikimimi.task import Task, TaskConfig


@dataclass(kw_only=True, frozen=True)
class ChatConfig(TaskConfig):
    """The task `chat` has no options."""


class Chat(Task):
    """Takes the conversation that stands in the record: ``{"messages": [...]}``."""

    Config = ChatConfig

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Read the record's conversation.

        Args:
            record: See `kikimimi.conversation.parse_conversation`.
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
        return conversation

    def question(self, language: str | None) -> Conversation:
        """Raise: what is asked stands in each record.

        Raises:
            ValueError: Always.
        """
        raise ValueError("task 'chat' has no fixed question: the records bring their own")
