"""Licences of weights and data: what is stated, and what that forbids and asks of whoever publishes.

A table for people, no legal advice: what is not in it is unknown, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path
from typing import Any

import yaml

from kikimimi.console.terminal import shortened, visible
from kikimimi.errors import DamagedError, WeightsError
from kikimimi.files.reading import MEBIBYTE, read_text
from kikimimi.weights.find import find_weights, hub_id

UNSTATED, OTHER = "unknown", "other"
"""What the Hub calls a licence that nobody states, and one that is in no list."""
CARD = "README.md"
"""The model card in a folder of weights."""
_TEXTS = ("LICEN[CS]E*", "NOTICE*", "USE_POLICY*", "COPYING*")
_PATTERNS = (CARD, *(pattern.replace("[CS]", letter) for pattern in _TEXTS for letter in "CS"))
_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,80}", re.ASCII)
_LONGEST = 120

_FREE = frozenset(
    (
        *(
            "afl-3.0",
            "apache-2.0",
            "artistic-2.0",
            "bsd",
            "bsd-2-clause",
            "bsd-3-clause",
            "bsd-3-clause-clear",
        ),
        *("bsl-1.0", "c-uda", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0"),
        *("ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "isc", "lppl-1.3c", "mit"),
        *("mpl-2.0", "ms-pl", "ncsa", "odc-by", "odbl", "ofl-1.1", "openmdw-1.0", "osl-3.0", "pddl"),
        *("postgresql", "unlicense", "wtfpl", "zlib"),
        *("agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr"),
    )
)
"""Identifiers of the Hub whose licences forbid neither to sell, nor to change, nor to pass on."""
_RESEARCH = frozenset(
    (
        *("apple-amlr", "deepfloyd-if-license", "fair-noncommercial-research-license", "h-research"),
        *("intel-research", "qwen-research", "mrl", "mnpl"),
    )
)
"""Identifiers and names whose licences allow research alone; `mrl` and `mnpl` are Mistral AI's."""
_RAIL = frozenset(
    (
        *("openrail", "openrail++", "bigscience-openrail-m", "creativeml-openrail-m", "bigcode-openrail-m"),
        "bigscience-bloom-rail-1.0",
    )
)
_LLAMA = re.compile(r"llama(?P<version>2|3|3\.[1-3]|4)", re.ASCII)
_CREATIVE = re.compile(r"cc-by(?P<terms>(-(nc|nd|sa))*)(-\d\.\d)?(-[a-z]{2,4})?", re.ASCII)
_CREATIVE_URL = re.compile(r"https?://creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)", re.ASCII)
_HEADINGS = (
    (r"Apache License\s+Version 2\.0", "apache-2.0"),
    (r"(^|\n)\s*(The )?MIT License|Permission is hereby granted, free of charge", "mit"),
    (r"LLAMA 2 COMMUNITY LICENSE AGREEMENT", "llama2"),
    (r"META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
    (r"LLAMA 3\.1 COMMUNITY LICENSE AGREEMENT", "llama3.1"),
    (r"LLAMA 3\.2 COMMUNITY LICENSE AGREEMENT", "llama3.2"),
    (r"LLAMA 3\.3 COMMUNITY LICENSE AGREEMENT", "llama3.3"),
    (r"LLAMA 4 COMMUNITY LICENSE AGREEMENT", "llama4"),
    (r"Gemma Terms of Use", "gemma"),
    (r"Attribution-NonCommercial-NoDerivatives 4\.0", "cc-by-nc-nd-4.0"),
    (r"Attribution-NonCommercial-ShareAlike 4\.0", "cc-by-nc-sa-4.0"),
    (r"Attribution-NonCommercial 4\.0", "cc-by-nc-4.0"),
    (r"Attribution-NoDerivatives 4\.0", "cc-by-nd-4.0"),
    (r"Attribution-ShareAlike 4\.0", "cc-by-sa-4.0"),
    (r"(?<!-)Attribution 4\.0 International", "cc-by-4.0"),
)
"""What a licence's own text begins with, the longer names first; anything else is `other`."""
_HEAD = 1500  # characters in which a licence says what it is


@dataclass(frozen=True)
class Terms:
    """What a licence means to whoever publishes something that is made of the licensed.

    Attributes:
        forbids: What is forbidden, a phrase each: ``commercial use``.
        asks: What publishing asks, a sentence each.
        shut: Whether publishing needs a right of one's own: changed versions are not to be passed on, or all
            is for research alone.
        begins: What the name of a published model has to begin with; empty where that is free.
        known: Whether the licence is one that this table knows.
    """

    forbids: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    shut: bool = False
    begins: str = ""
    known: bool = True


def terms_of(identifier: str, name: str = "") -> Terms:
    """Return what a licence means.

    Args:
        identifier: The licence, as the Hub or a record of data spells it.
        name: The licence's name, where the identifier is `other`.
    """
    spelled = spelling(identifier)
    called = re.sub(r"[\s_]+", "-", name.strip().lower())
    if spelled in _FREE:
        return Terms()
    if llama := _LLAMA.fullmatch(spelled):
        return _llama(llama["version"])
    if creative := _CREATIVE.fullmatch(spelled):
        given = creative["terms"].split("-")
        forbids = [what for short, what in _CREATIVE_TERMS.items() if short in given]
        return Terms(tuple(forbids), shut="nd" in given)
    if spelled in _RESEARCH or called in _RESEARCH or (spelled == OTHER and "research" in called):
        return Terms(("any use but research",), shut=True)
    if spelled == OTHER and re.search(r"non-?commercial|(^|-)nc(-|$)", called):
        return Terms(("commercial use",))
    if spelled == "gemma":
        return Terms(
            ("the uses that the Gemma Prohibited Use Policy lists",),
            (
                "The Gemma Terms of Use go along, with their restrictions of use, and a file NOTICE says: "
                "Gemma is provided under and subject to the Gemma Terms of Use found at "
                "ai.google.dev/gemma/terms.",
            ),
        )
    if spelled in _RAIL:
        restrictions = "the uses that its attachment lists"
        return Terms((restrictions,), ("Its restrictions of use go along.",))
    return Terms(known=False)


_CREATIVE_TERMS = {"nc": "commercial use", "nd": "to pass on changed versions"}


def _llama(version: str) -> Terms:
    called = f"Llama {version}"
    asks = [f"The {called} Community License goes along, with its acceptable use policy and its notice."]
    if version != "2":
        asks.append('"Built with Llama" stands where people see it.')
    begins = {"2": "", "3": "Llama 3"}.get(version, "Llama")
    return Terms(("the uses that its acceptable use policy lists",), tuple(asks), begins=begins)


_SHORT = {"cc0": "cc0-1.0", "apache": "apache-2.0", "apache2": "apache-2.0", "": UNSTATED}


def spelling(licence: str) -> str:
    """Return a licence's name as the Hub spells it: `cc-by-4.0` of ``CC BY 4.0`` and of its address."""
    text = licence.strip()
    if found := _CREATIVE_URL.match(text.lower()):
        return f"cc-{found[1]}-{found[2]}"
    spelled = re.sub(r"[\s_]+", "-", text.lower())
    spelled = re.sub(r"^cc-(zero|0)", "cc0", spelled)
    return _SHORT.get(spelled, spelled)


@dataclass(frozen=True)
class Licence:
    """What weights say of their licence.

    Attributes:
        id: The Hub's identifier; `UNSTATED` where nothing is said, `OTHER` where it is in no list.
        name: What it is called, where the identifier does not say.
        link: Where it can be read; empty where that is not said.
        files: Its text, and notices, where they lie beside the weights.
    """

    id: str = UNSTATED
    name: str = ""
    link: str = ""
    files: tuple[Path, ...] = ()

    @property
    def terms(self) -> Terms:
        """What it means to whoever publishes."""
        return terms_of(self.id, self.name)

    @property
    def title(self) -> str:
        """What people call it: ``other (qwen-research)``."""
        return f"{self.id} ({self.name})" if self.name and self.name != self.id else self.id


def licence_of(source: str) -> Licence:
    """Return the licence of a weights source, as its model card, its package or its LICENSE states it.

    Of the Hub, the card and the licence are fetched, where it can be reached.
    """
    found = _beside(source)
    texts = tuple(path for path in found if path.name != CARD)
    card = next((path for path in found if path.name == CARD), None)
    stated = {} if card is None else card_data(card)
    licence = _stated(stated)
    if licence is None and source.startswith("package:"):
        licence = _of_package(source)
    for path in texts:
        licence = licence or _of_text(path)
    id_, name, link = licence or (UNSTATED, "", "")
    return Licence(id_, name, link, texts)


def _beside(source: str) -> list[Path]:
    """Return the card and the licence files of a source."""
    repository = hub_id(source)
    if repository is not None:
        name, revision = repository
        source = name if revision is None else f"{name}@{revision}"
    try:
        files = find_weights(source.partition("@sha256:")[0], patterns=_PATTERNS)
    except WeightsError:
        return []
    if files is None:
        return []
    folders = {part.parent for parts in files.files.values() for part in parts}
    found = [
        path for folder in sorted(folders) for pattern in (CARD, *_TEXTS) for path in folder.glob(pattern)
    ]
    return sorted({path for path in found if path.is_file()})


def card_data(card: Path) -> dict[str, Any]:
    """Return the metadata of a model card; empty where it has none that can be read."""
    from huggingface_hub import ModelCard

    try:
        data: Any = ModelCard(read_text(card, limit=MEBIBYTE), ignore_metadata_errors=True).data
        return dict(data.to_dict())
    except (DamagedError, ValueError, TypeError, AttributeError, yaml.YAMLError, RecursionError):
        return {}


def _stated(data: dict[str, Any]) -> tuple[str, str, str] | None:
    """Return identifier, name and link of what a card states."""
    given = data.get("license")
    several = [text for text in given if isinstance(text, str)] if isinstance(given, list) else [given]
    texts = [text for text in several if isinstance(text, str) and spelling(text) != UNSTATED]
    if not texts:
        return None
    name, link = (_said(data.get(key)) for key in ("license_name", "license_link"))
    spelled = spelling(texts[0])
    if len(texts) == 1 and _ID.fullmatch(spelled):
        return spelled, name, link
    return OTHER, name or _said(" / ".join(texts)), link


def _said(value: Any) -> str:
    return shortened(visible(value), _LONGEST) if isinstance(value, str) else ""


_distributions = cache(packages_distributions)  # reads every package that is installed


def _of_package(source: str) -> tuple[str, str, str] | None:
    packages = re.split(r"[/@]", source.removeprefix("package:"), maxsplit=1)[0].split("+")
    held = _distributions()
    for distribution in {name for package in packages for name in held.get(package, ())}:
        try:
            about: Any = metadata(distribution)
        except PackageNotFoundError:
            continue
        said = about.get("License-Expression") or about.get("License") or ""
        if stated := _stated({"license": said.partition("\n")[0]}):
            return stated
    return None


def _of_text(path: Path) -> tuple[str, str, str] | None:
    if not path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
        return None
    try:
        head = read_text(path, limit=MEBIBYTE)[:_HEAD]
    except DamagedError:
        return None
    for pattern, identifier in _HEADINGS:
        if re.search(pattern, head, re.IGNORECASE):
            return identifier, "", ""
    first = next((line.strip() for line in head.split("\n") if line.strip()), "")
    return OTHER, _said(first), ""


def together(licences: Iterable[Licence]) -> Licence | None:
    """Return the licence that a whole made of parts can state; None where no part has one of somebody else's.

    One of all, or `other` where they differ; `UNSTATED` where that of one is.
    """
    found = {(licence.id, licence.name): licence for licence in licences}
    if len(found) == 1:
        return next(iter(found.values()))
    if any(licence.id == UNSTATED for licence in found.values()):
        return Licence(UNSTATED)
    return Licence(OTHER, "licences-of-its-parts", "LICENSE.md") if found else None
