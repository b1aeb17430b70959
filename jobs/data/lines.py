"""The lines of a stream as text: each ends at \\n, \\r\\n or \\r, and at no other sign."""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from jobs.data.formats import BUFFER_BYTES, ends_lines_by_bytes


class Fault(NamedTuple):
    """Why a row cannot be read: in a word or two to count by, and in detail."""

    reason: str
    detail: str


class Line(NamedTuple):
    """A line with its end."""

    text: str
    size: int
    """Its bytes; 0 where a stream is not decoded line by line."""
    fault: Fault | None = None


_TEXT_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def lines_of(stream: BinaryIO, encoding: str, start: int = 0, end: int | None = None) -> Iterator[Line]:
    """The lines from here, which is the place `start` of the stream, up to the place `end`. One that has bytes which are no
    characters has a fault, and in their places what they are."""
    if not ends_lines_by_bytes(encoding):
        yield from _wide_lines(stream, encoding)
        return
    place = start
    for raw in _byte_lines(stream, None if end is None else end - start):
        try:
            yield Line(raw.decode(encoding), len(raw))
        except UnicodeDecodeError as error:
            detail = f"byte {place + error.start + 1} of the file, 0x{raw[error.start]:02x}, is no {encoding}"
            yield Line(raw.decode(encoding, "backslashreplace"), len(raw), Fault(f"not {encoding}", detail))
        place += len(raw)


def _byte_lines(stream: BinaryIO, left: int | None) -> Iterator[bytes]:
    begun: list[bytes] = []
    while chunk := stream.read(BUFFER_BYTES if left is None else min(BUFFER_BYTES, left)):
        left = None if left is None else left - len(chunk)
        begun.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            continue
        lines = b"".join(begun).splitlines(keepends=True)
        # A \r at the very end may be half of a line end.
        begun = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        yield from lines
    yield from b"".join(begun).splitlines(keepends=True)


def _wide_lines(stream: BinaryIO, encoding: str) -> Iterator[Line]:
    """Lines of an encoding whose line ends are no single bytes, such as UTF-16."""
    begun = ""
    # Half pairs of UTF-16 pass, so that they spoil their own line only.
    for text in _decoded(stream, encoding, "surrogatepass" if encoding.startswith(("utf-16", "utf-32")) else "strict"):
        found = _TEXT_LINE.findall(begun + text)
        begun = "" if not found or found[-1].endswith("\n") else found.pop()
        yield from (_checked(line, encoding) for line in found)
    yield from (_checked(line, encoding) for line in _TEXT_LINE.findall(begun))


def texts_of(stream: BinaryIO, encoding: str) -> Iterator[str]:
    """The text from here, some at a time; bytes that are no characters are half ones in it (Python's surrogateescape)."""
    return _decoded(stream, encoding, "surrogateescape" if ends_lines_by_bytes(encoding) else "surrogatepass")


def broken_in(text: str, encoding: str) -> Fault | None:
    """A fault where a text has bytes that are no characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        sign = ord(text[error.start])
        found = f"the byte 0x{sign - 0xDC00:02x}" if 0xDC80 <= sign <= 0xDCFF else "half a character"
        return Fault(f"not {encoding}", f"{found} at place {error.start + 1} of the row")
    return None


def _decoded(stream: BinaryIO, encoding: str, errors: str) -> Iterator[str]:
    decoder, place = codecs.getincrementaldecoder(encoding)(errors), 0
    try:
        while chunk := stream.read(BUFFER_BYTES):
            yield decoder.decode(chunk)
            place += len(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"what follows byte {place + error.start} of the file is no {encoding}: {error.reason}") from error


def _checked(text: str, encoding: str) -> Line:
    return Line(text, 0, broken_in(text, encoding))
