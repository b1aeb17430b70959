"""Which items belong to a share of the traffic: the same ones on every replica and every day.

chosen(item.key, 0.1, "shadow")           # True for one item of ten
chosen(key_of(items), 0.1, "canary")      # for one request of ten
"""

from collections.abc import Sequence
from hashlib import blake2b

from serve.tasks.protocol import Item


def chosen(key: bytes, share: float, purpose: str) -> bool:
    """Whether the hash of a key lies in the share (0 to 1); another purpose chooses others."""
    hashed = blake2b(key, digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(hashed) < share * 2**64


def key_of(items: Sequence[Item]) -> bytes:
    """The key of a request: of a single item its own, so that it has the same version alone as everywhere else."""
    return items[0].key if len(items) == 1 else b"".join(item.key for item in items)
