"""API keys: who may ask, and how often. Kept as hashes in one file, which replicas read again while they run.

    python -m serve.keys add mobile --file s3://bucket/keys.json --per-minute 600     # prints the key, this once
    python -m serve.keys list --file s3://bucket/keys.json
    python -m serve.keys revoke mobile --file s3://bucket/keys.json                    # within seconds, without a restart

A key is 256 random bits, so a plain SHA-256 of it cannot be guessed back.
"""

import argparse
import hashlib
import hmac
import secrets
import sys
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.store import storage

PREFIX = "rs_"


class KeysError(Exception):
    """The keys' file cannot be used; the message says why and what to do."""


class Key(BaseModel):
    """One client's key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")
    """Whose it is; it stands in the access log."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """The hash of the key."""
    per_minute: int | None = Field(default=None, ge=1)
    """Requests a minute; None for no limit."""
    created: datetime


class Keys(BaseModel):
    """All keys that are good."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    keys: tuple[Key, ...] = ()

    def find(self, presented: str) -> Key | None:
        """The key that this is; all are compared, each in the same time, so that the time tells nothing."""
        digest, found = _digest(presented), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def read_keys(uri: str) -> Keys:
    """The keys in a file, local or remote; KeysError where it is missing or damaged."""
    try:
        return Keys.model_validate_json(storage.read_bytes(uri))
    except (OSError, storage.StorageError) as error:
        raise KeysError(f"{uri}: cannot be read ({error}); make it with python -m serve.keys add NAME --file {uri}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise KeysError(f"{uri} is damaged: {where}: {first['msg']}; mend it, or make the keys anew") from error


def add(uri: str, name: str, per_minute: int | None) -> str:
    """Make a key and enter its hash; returns the key, which is kept nowhere."""
    keys = read_keys(uri) if storage.exists(uri) else Keys()
    if any(key.name == name for key in keys.keys):
        raise KeysError(f"{uri} has a key named {name} already; revoke it first, or choose another name")
    made = PREFIX + secrets.token_urlsafe(32)
    try:
        key = Key(name=name, sha256=_digest(made), per_minute=per_minute, created=datetime.now(UTC))
    except ValidationError as error:
        raise KeysError(f"{name}: {error.errors()[0]['msg']}; use letters, digits, dots and dashes") from error
    _write(uri, Keys(keys=(*keys.keys, key)))
    return made


def revoke(uri: str, name: str) -> None:
    """Take a key out."""
    keys = read_keys(uri)
    kept = tuple(key for key in keys.keys if key.name != name)
    if len(kept) == len(keys.keys):
        raise KeysError(f"{uri} has no key named {name}; it has {', '.join(key.name for key in keys.keys) or 'none'}")
    _write(uri, Keys(keys=kept))


def _write(uri: str, keys: Keys) -> None:
    storage.write_bytes(uri, keys.model_dump_json(indent=1).encode() + b"\n")


def _digest(presented: str) -> str:
    return hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serve.keys", description="API keys of the service.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("add", "make a key and print it, this once"), ("revoke", "take a key out"), ("list", "who has keys")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--file", required=True, help="where the hashes are kept: a path or URI")
        if name != "list":
            command.add_argument("name", help="whose key it is")
        if name == "add":
            command.add_argument("--per-minute", type=int, help="requests a minute (default: no limit)")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "add":
            print(add(asked.file, asked.name, asked.per_minute))
        elif asked.command == "revoke":
            revoke(asked.file, asked.name)
        else:
            for key in read_keys(asked.file).keys:
                print(f"{key.name}\t{key.per_minute or 'no limit'}\t{key.created:%Y-%m-%d}")
    except KeysError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
