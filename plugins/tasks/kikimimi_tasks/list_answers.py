"""What the tasks whose answer is a list share."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar, TypeVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class ListConfig(BankConfig):
    """A request whose answer is a list."""

    separator: str = ", "
    """What stands between the items of the answer."""

    bank_name: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError("separator: is empty: the items could not be told apart")
        super().__post_init__()


Listed = TypeVar("Listed", bound=ListConfig)


class ListTask(BankTask[Listed]):
    """Answers with the items of a field, which is a list, or one text or number alone."""

    field: ClassVar[str]
    """Where in the record the items are."""
    what: ClassVar[str]
    """What they are, for messages."""

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the items."""
        return self.config.separator.join(clip.texts(self.field, what=self.what))

    def phrasings(self) -> list[str]:
        """Return the requests and the separator."""
        return [*super().phrasings(), self.config.separator]
