"""Names of licences from the addresses by which corpora give them."""

from __future__ import annotations

import re

_CREATIVE_COMMONS = re.compile(r"https?://creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/([\d.]+)")


def licence_name(address: str) -> str:
    """Return the SPDX name of a Creative Commons licence; what is none is returned as it is.

    SPDX has no name for the retired Sampling+ licence, only the form for such cases: ``LicenseRef-...``.
    """
    found = _CREATIVE_COMMONS.match(address.strip())
    if found is None:
        return address.strip()
    kind, version = found[1], found[2].rstrip(".")
    if kind == "zero":
        return f"CC0-{version}"
    if "sampling" in kind:
        return f"LicenseRef-CC-{kind.replace('+', '-Plus').title()}-{version}"
    return f"CC-{kind.upper()}-{version}"
