"""Turkish texts, as they are compared: lower case of Turkish, no punctuation."""

from __future__ import annotations

import re
from unicodedata import category, normalize

from kikimimi import Normaliser

APOSTROPHES = "'\u2018\u2019\u02bc\uff07"
"""What stands between a name and its ending: ``Ankara'da``."""
DOTTED = str.maketrans({"I": "\u0131", "\u0130": "i"})
"""Lower case of the two letters i: `str.lower` makes ``i`` of the dotless one, too."""
CIRCUMFLEX = str.maketrans({"\u00e2": "a", "\u00ee": "i", "\u00fb": "u"})
"""Many write ``kagit`` for what is spelt with a circumflex: both are right."""


class Turkish(Normaliser):
    """Turkish in lower case, without punctuation, apostrophes or circumflexes; one space between words.

    1. Compatibility forms made one (NFKC: Unicode Standard Annex 15).
    2. Lower case with the two letters i of Turkish: I is dotless, the capital with a dot is i
       (SpecialCasing.txt of the Unicode Character Database, locale tr).
    3. A circumflex over a, i and u is left out.
    4. Apostrophes, which part a name from its ending, are left out: ``Ankara'da`` is one word (Turk
       Dil Kurumu, Yazim Kurallari, "Kesme Isareti").
    5. All other punctuation and symbols, and control characters, are white space; one space for any of it.
    """

    contract_version = 1

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        lower = normalize("NFC", normalize("NFKC", text).translate(DOTTED).lower()).translate(CIRCUMFLEX)
        joined = re.sub(f"(?<=\\w)[{APOSTROPHES}](?=\\w)", "", lower)
        return " ".join("".join(" " if category(c)[0] in "PSCZ" else c for c in joined).split())
