"""The encodings that text files are read in: UTF-8, with or without a byte order mark, and UTF-16 by its mark.

    text = decoded(Path("jobs/recipes/spam.yaml").read_bytes(), "jobs/recipes/spam.yaml")

Anything else is refused rather than guessed, whatever the locale: a wrong guess reads as text, too.
"""

import codecs

from jobs.core.config import BadInput, Problem

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
LOOKED_AT = 1 << 16
"""Of a file that cannot be read so many bytes around the first wrong one say in which encodings it could be."""


def encoding_of(start: bytes) -> str:
    """What a file that begins with these bytes is read as; its mark is none of its text."""
    return "utf-16" if start.startswith(UTF16) and not start.startswith(UTF32) else "utf-8-sig"


def decoded(content: bytes, file: str) -> str:
    """The text of a file; BadInput, with the place and what would fit, where it is in another encoding."""
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput([undecoded(content, file, encoding, error.start)]) from error
    if "\0" in text:
        # Text in UTF-16 or UTF-32 that says so nowhere; it may well be UTF-8 byte by byte.
        raise BadInput([undecoded(content, file, encoding, content.index(b"\0"))])
    return text


def undecoded(content: bytes, file: str, encoding: str, position: int) -> Problem:
    """That the byte at this position is none of this encoding's."""
    shown = encoding.removesuffix("-sig").upper()
    reason = f"it is not {shown}: the byte 0x{content[position]:02X} at position {position} does not belong there"
    start = max(0, position - LOOKED_AT // 2)
    fitting = " or ".join(name.upper() for name in fitting_encodings(content[start : start + LOOKED_AT]))
    return Problem(file, None, reason, f"It would fit {fitting}: save it as UTF-8." if fitting else "Save it as UTF-8.")


def fitting_encodings(content: bytes, most: int = 3) -> list[str]:
    """Python's names of encodings in which these bytes, which are no UTF-8, read as text, the likeliest first."""
    from charset_normalizer import from_bytes

    found = (codecs.lookup(match.encoding).name for match in from_bytes(content))
    return list(dict.fromkeys(name for name in found if name not in ("ascii", "utf-8")))[:most]
