"""A window whose offsets are places in what was sent, though its tokens are of texts that were cleaned."""

from collections.abc import Sequence

from tokenizers import Encoding

from serve.cleaning.changes import Cleaned


class SentWindow:
    """Of an `Encoding` what kinds of tasks read; sequence n is of text n. Whatever else would speak of the cleaned text is not
    there."""

    __slots__ = ("attention_mask", "ids", "offsets", "sequence_ids", "special_tokens_mask", "tokens", "type_ids", "word_ids")

    def __init__(self, window: Encoding, texts: Sequence[Cleaned]) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(window, name))
        self.offsets: list[tuple[int, int]] = [
            (start, end) if sequence is None else texts[sequence].span(start, end)
            for (start, end), sequence in zip(window.offsets, window.sequence_ids, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.ids)  # type: ignore[attr-defined]  # set above
