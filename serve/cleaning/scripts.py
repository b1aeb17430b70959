"""Scripts that are written without spaces between words: ranges of code points, and classes of regular expressions."""

CHARACTER_SCRIPTS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Hiragana, Katakana and Han: each character stands for itself."""
CHARACTERS = "".join(f"{chr(first)}-{chr(last)}" for first, last in CHARACTER_SCRIPTS)
"""The same, for a regular expression."""
UNPARTED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese, Khmer: words of several letters, which a space of no width may part."""
WIDE_SIGNS = r"\u3001-\u303f\ufe30-\ufe6f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffef"
"""Punctuation that is as wide as Han: it has its space in it."""
