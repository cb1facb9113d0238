"""Errors that a user can meet. Each says where, what was wrong, what is allowed, and the nearest guess."""

from collections.abc import Iterable


class KikimimiError(Exception):
    """The work failed for a reason that the message explains; the command line exits with 1."""


class RequestError(KikimimiError, ValueError):
    """What was asked for is wrong (a name, a path, an option); the command line exits with 2."""


class RecipeError(RequestError):
    """A recipe is wrong. Holds every problem found, not only the first."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = "1 problem in the recipe:" if count == 1 else f"{count} problems in the recipe:"
        super().__init__("\n".join([heading, *(f"  {problem}" for problem in self.problems)]))


class PluginError(RequestError):
    """A plugin is unknown, broken, claimed twice, or does not keep its contract."""


class GateError(KikimimiError):
    """A stage did not reach what its recipe asks of it before later stages begin."""


class MissingExtraError(RequestError):
    """A feature needs an optional dependency.

    Args:
        feature: What the user asked for.
        package: The distribution that is missing.
        extra: The extra of kikimimi that installs it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'kikimimi[{extra}]'"
        )


class WeightsError(RequestError):
    """Weights that a recipe names cannot be found or read, have another hash, or do not fit."""


class DataError(KikimimiError):
    """A shard, an index or a record is missing or malformed."""


class RoomError(DataError):
    """A conversation leaves no room for an answer in the LLM's context."""


class StorageError(KikimimiError):
    """Data cannot be reached: a shard is gone since it was opened, or its server does not answer.

    Says nothing of any one record, and so is never a reason to pass over one.
    """


class AudioError(DataError):
    """An audio file cannot be used: not audio, empty, or holding values that are not numbers."""


class CancellingError(AudioError):
    """The channels of an audio file cancel one another: their average is silence."""


class DamagedError(DataError):
    """A file of ours is not as it was written: torn, altered, another one, or none where one has to be."""


class WriteError(KikimimiError):
    """The system refuses to write: a full disk, a folder without permission, too many open files."""


class SegmentError(AudioError):
    """A segment is not in its file, or its channel is not."""


class RunError(RequestError):
    """A run folder that is named is missing, is of another recipe, or cannot do what was asked of it.

    What is found damaged in one is a `DamagedError`: the request was right.
    """
