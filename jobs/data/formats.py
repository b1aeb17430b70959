"""What a data file is: its format by its name, how it is packed and encoded by its content.

for part in parts_of("s3://bucket/reviews.zip"):         # the file itself, or the data files in a zip
    with opened(part) as stream: stream.read()           # unpacked
"""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

from pydantic import Field, field_validator

from cluster.store import storage
from jobs.core.config import BadInput, Config, Problem
from jobs.core.encodings import fitting_encodings

FORMATS = {
    ".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".xlsx": "xlsx",
}  # fmt: skip
DELIMITED = ("csv", "tsv")
READ_BY = {
    "encoding": ("text", "jsonl", "json", *DELIMITED), "delimiter": DELIMITED, "quoting": DELIMITED,
    "columns": (*DELIMITED, "xlsx"), "annotated_in": ("json", "jsonl", *DELIMITED),
}  # fmt: skip
"""The formats that each key of `Files` is for."""
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".zip")
KNOWN_FORMATS = f"Known: {', '.join(FORMATS)} (and {', '.join(PACKINGS)})."
ZIP = "zip"
BUFFER_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16
"""By so much of a file its encoding is guessed."""
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"} | {
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
"""The longer ones first: that of UTF-32 begins like one of UTF-16."""
LONGEST_MARK = 4
EXCEL_MEMBER = "[Content_Types].xml"
"""What an Excel file has in it, which is a zip itself."""
ZIP_MAGIC = b"PK\x03\x04"
BROKEN = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, KeyError, RuntimeError)
"""What libraries raise for files that are broken; the last two for Excel files and zips that lack parts or are locked."""


class Files(Config):
    """How files are written, where neither their names nor their contents say it."""

    encoding: str | None = None
    """The encoding of text files without a mark, e.g. gb18030 or cp1252; by default UTF-8."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """What parts the columns of CSV and TSV files; by default a comma and a tab."""
    quoting: Literal["standard", "none"] | None = None
    """What quotation marks mean in CSV and TSV files. standard: as RFC 4180 says, also around line ends; none: they are
    characters like others. By default standard for CSV; in TSV a field that is quoted as a whole, on one line, is unquoted."""
    columns: tuple[str, ...] | None = None
    """The columns of CSV, TSV and Excel files that do not name them in their first row."""
    annotated_in: Literal["label_studio", "doccano"] | None = None
    """The annotation tool whose export the files are. A row is then one annotation, and what was annotated a column: in Label
    Studio under the control's name (from_name), in doccano under `label`."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        try:
            "\r\n".encode(name or "utf-8")
        except LookupError as error:
            raise ValueError(f"no such encoding is known; {error}") from error
        return name

    @field_validator("delimiter")
    @classmethod
    def _parts(cls, delimiter: str | None) -> str | None:
        if delimiter in ('"', "\r", "\n"):
            raise ValueError("a quotation mark or a line end parts no columns")
        return delimiter

    @field_validator("columns")
    @classmethod
    def _named_once(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and (not columns or len(set(columns)) < len(columns)):
            raise ValueError("name each column once")
        return columns


@dataclass(frozen=True)
class FilePart:
    """What rows are read from: a file, or one of the files in a zip."""

    file: str
    format: str
    member: str = ""

    @property
    def name(self) -> str:
        """How it is told."""
        return f"{self.file}/{self.member}" if self.member else self.file


def idle_keys(written: Files, formats: Collection[str]) -> list[Problem]:
    """Keys that say something of files of other formats than there are."""
    there = ", ".join(sorted(set(formats)))
    return [
        Problem(key, getattr(written, key), f"it is for {', '.join(read)}, and what is read is {there}", "Leave it out.")
        for key, read in READ_BY.items()
        if getattr(written, key) is not None and formats and not set(formats) & set(read)
    ]


def file_format(path: str) -> str | None:
    """text, jsonl, json, csv, tsv, parquet or xlsx by the file's ending; zip where only its members can say it; None for
    others."""
    name = os.path.basename(path).lower()
    packed = False
    while name.endswith(PACKINGS):
        name, ending = os.path.splitext(name)
        packed = packed or ending == ".zip"
    return FORMATS.get(os.path.splitext(name)[1]) or (ZIP if packed else None)


def is_hidden(path: str) -> bool:
    """Whether a path below a directory is none of the data: of an editor, of a notebook, of a Mac."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def parts_of(file: str) -> list[FilePart]:
    """The file itself, or the data files in it where it is a zip, by their names."""
    kind = file_format(file)
    assert kind is not None, file
    with naming(FilePart(file, kind)), _raw(file) as raw:
        if raw.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            if kind == ZIP:
                raise ValueError("it is no zip")
            return [FilePart(file, kind)]
        raw.seek(0)
        with zipfile.ZipFile(raw) as archive:
            names = [one.filename for one in archive.infolist() if not one.is_dir() and not is_hidden(one.filename)]
    if EXCEL_MEMBER in names:
        return [FilePart(file, "xlsx")]
    found = [FilePart(file, own, name) for name in sorted(names) if (own := file_format(name)) not in (None, ZIP)]
    if not found and len(names) == 1 and kind != ZIP:
        return [FilePart(file, kind, names[0])]
    if not found:
        raise BadInput([Problem("source", file, "the zip has no data files", KNOWN_FORMATS)])
    return found


@contextlib.contextmanager
def opened(part: FilePart) -> Iterator[io.BufferedReader]:
    """The unpacked bytes from their beginning."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(_raw(part.file))
        stream = io.BufferedReader(cast(Any, raw), BUFFER_BYTES)
        if part.member:
            archive = stack.enter_context(zipfile.ZipFile(stream))
            stream = io.BufferedReader(cast(Any, stack.enter_context(archive.open(part.member))), BUFFER_BYTES)
        while (unpack := _packing(stream.peek(LONGEST_MAGIC))) is not None:
            stream = io.BufferedReader(stack.enter_context(contextlib.closing(unpack(stream))), BUFFER_BYTES)
        yield stream


@contextlib.contextmanager
def opened_anywhere(part: FilePart) -> Iterator[BinaryIO]:
    """The same to be read in any order: in place, or from a copy where it is packed."""
    with contextlib.ExitStack() as stack:
        if is_plain(part):
            yield stack.enter_context(_raw(part.file))
            return
        copy = stack.enter_context(tempfile.TemporaryFile())
        with opened(part) as stream:
            shutil.copyfileobj(stream, copy, BUFFER_BYTES)
        copy.seek(0)
        yield cast(BinaryIO, copy)


def is_plain(part: FilePart) -> bool:
    """Whether a file is not packed, so that any place of it is reached at once."""
    if part.member:
        return False
    with naming(part), _raw(part.file) as raw:
        return _packing(raw.read(LONGEST_MAGIC)) is None


def stream_encoding(stream: io.BufferedReader, files: Files) -> tuple[str, int]:
    """The encoding of a stream that is at its beginning, and how many bytes its mark has; ValueError where it says none, and
    cannot be what it should be by default."""
    head = stream.peek(LONGEST_MARK)[:1024]
    for mark, name in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return name, len(mark)
    if files.encoding is None and (found := _unmarked(head)) is not None:
        raise ValueError(f"it has no mark and looks like {found}: write encoding: {found}, or save it as UTF-8")
    return files.encoding or "utf-8", 0


def _unmarked(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of such text is 0 as long as it is Latin."""
    if len(head) < 2 or b"\0" not in head:
        return None
    zeros = [sum(byte == 0 for byte in head[start::2]) for start in (0, 1)]
    wide = max(zeros) > len(head) / 4 and min(zeros) == 0
    return ("utf-16-be" if zeros[0] else "utf-16-le") if wide else None


def ends_lines_by_bytes(encoding: str) -> bool:
    """Whether line ends are the bytes \\r and \\n, which no other character has in it: then lines can be cut before they are
    decoded. So in UTF-8, and in all encodings of one or several bytes that hold ASCII."""
    return "\r\n".encode(encoding) == b"\r\n"


@contextlib.contextmanager
def naming(part: FilePart) -> Iterator[None]:
    """Whatever a reader finds wrong with a file as a whole as one error that names it."""
    try:
        yield
    except BadInput:
        raise
    except BROKEN as error:
        reason = f"it cannot be read as {part.format}: {error}"
        raise BadInput([Problem("source", part.name, reason, "Mend or remove it.")]) from error


@contextlib.contextmanager
def _raw(file: str) -> Iterator[BinaryIO]:
    system, path = storage.filesystem(file)
    with system.open_input_file(path) as raw:
        yield cast(BinaryIO, raw)


def _zstd(stream: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")


UNPACKERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}
BZIP2 = (b"BZh", b"1AY&SY")
"""A digit stands between: a text may begin with the first three of these letters."""
LONGEST_MAGIC = 10


def _packing(head: bytes) -> Callable[[BinaryIO], Any] | None:
    """What unpacks a stream that begins with these bytes; None where it is not packed."""
    if head.startswith(BZIP2[0]) and head[4:LONGEST_MAGIC] == BZIP2[1]:
        return bz2.BZ2File
    return next((unpack for magic, unpack in UNPACKERS.items() if head.startswith(magic)), None)


def encoding_remedy(part: FilePart, end: int) -> str:
    """What to do about bytes before this place of a file that are no UTF-8: the encodings that they may have."""
    with naming(part), opened(part) as stream:
        start = max(0, end - SAMPLE_BYTES)
        skip(stream, start)
        names = fitting_encodings(stream.read(max(end - start, SAMPLE_BYTES)))
    if not names:
        return "Save it as UTF-8, or write its encoding, e.g. encoding: cp1252."
    return f"It may be {' or '.join(names)}: write encoding: {names[0]}, or save it as UTF-8."


def skip(stream: BinaryIO, size: int) -> None:
    """Go on from this place of a stream that is at its beginning."""
    if stream.seekable():
        stream.seek(size)
        return
    while size > 0 and (read := stream.read(min(BUFFER_BYTES, size))):
        size -= len(read)
