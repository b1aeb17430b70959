"""Which texts belong to a share of the traffic: the same ones on every replica and every day.

chosen("Win a prize now", 0.1, "shadow")      # True for one text of ten
"""

from hashlib import blake2b


def chosen(text: str, share: float, purpose: str) -> bool:
    """Whether the text's hash lies in the share (0 to 1); another purpose chooses other texts."""
    hashed = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(hashed) < share * 2**64
