"""Names of languages, where a corpus tells them in place of codes: ``English``, as recipes of Lhotse do."""

_NAMES = """
afrikaans af, albanian sq, amharic am, arabic ar, armenian hy, assamese as, azerbaijani az, basque eu,
belarusian be, bengali bn, bosnian bs, breton br, bulgarian bg, burmese my, cantonese yue, catalan ca,
cebuano ceb, chinese zh, croatian hr, czech cs, danish da, dutch nl, english en, esperanto eo, estonian et,
filipino fil, finnish fi, french fr, galician gl, ganda lg, georgian ka, german de, greek el, guarani gn,
gujarati gu, haitian ht, hausa ha, hebrew he, hindi hi, hungarian hu, icelandic is, igbo ig, indonesian id,
irish ga, italian it, japanese ja, javanese jv, kannada kn, kazakh kk, khmer km, kinyarwanda rw, korean ko,
kurdish ku, kyrgyz ky, lao lo, latin la, latvian lv, lithuanian lt, luxembourgish lb, macedonian mk,
malagasy mg, malay ms, malayalam ml, maltese mt, mandarin zh, maori mi, marathi mr, mongolian mn, nepali ne,
norwegian no, oriya or, pashto ps, persian fa, polish pl, portuguese pt, punjabi pa, romanian ro, russian ru,
sanskrit sa, serbian sr, shona sn, sindhi sd, sinhala si, slovak sk, slovenian sl, somali so, spanish es,
sundanese su, swahili sw, swedish sv, tagalog tl, tajik tg, tamil ta, tatar tt, telugu te, thai th,
tibetan bo, turkish tr, turkmen tk, ukrainian uk, urdu ur, uyghur ug, uzbek uz, vietnamese vi, welsh cy,
xhosa xh, yiddish yi, yoruba yo, zulu zu
"""
_CODES = {name: code for name, _, code in (entry.strip().partition(" ") for entry in _NAMES.split(","))}


def language_code(said: str) -> str:
    """Return the ISO 639 code of a language by its English name; what is none is returned as it is."""
    return _CODES.get(said.strip().lower(), said)
