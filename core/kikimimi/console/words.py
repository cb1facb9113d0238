"""Numbers and names in words: the only place where messages get them from."""

import difflib
import math
from collections.abc import Collection, Iterable

from kikimimi.console.terminal import visible


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the allowed name closest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{visible(matches[0])}'?" if matches else ""


def listing(names: Iterable[str]) -> str:
    """Return the names sorted and comma-separated, or ``(none)``."""
    return ", ".join(sorted(names)) or "(none)"


def counted(number: int, unit: str, units: str = "") -> str:
    """Return how many there are: ``1 record``, ``1,234 records``."""
    return f"{number:,} {unit if number == 1 else units or f'{unit}s'}"


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Check an option against the values that it may have.

    Raises:
        ValueError: It has another.
    """
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is not one of {listing(allowed)}.{nearest(str(value), allowed)}")


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def amount(seconds: float) -> str:
    """Return a length of audio for people: ``1,234.5 hours``, ``2.5 minutes`` or ``6.0 seconds``."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


def hours(seconds: float) -> str:
    """Return a length as ``1,234.5 h``, or ``12:34`` (minutes and seconds) below an hour."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else duration(seconds)


def work_time(days: float) -> str:
    """Return how long work takes, about: ``12.3 days``, ``4.5 h`` or ``6.7 min``."""
    if days >= 2:
        return f"{days:.1f} days"
    return f"{days * 24:.1f} h" if days * 24 >= 1 else f"{max(days * 24 * 60, 0.1):.1f} min"


def size(count: float) -> str:
    """Return a number of bytes as ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def share(part: float, whole: float) -> str:
    """Return a part as ``12.3 %``."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def format_value(value: float) -> str:
    """Write a value in few characters: ``0.25``, ``1234``, ``1.2e7``."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.6g}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def round_size(rough: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50 ..., and of their fractions, that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(mark * power for mark in (1, 2, 5, 10) if mark * power >= rough * (1 - 1e-9))
