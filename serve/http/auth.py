"""Who may ask, and how often: the API keys of requests, read again from their file while the service runs.

    guard = Guard("s3://bucket/keys.json", shares=lambda: replicas)
    guard.admit(headers, "/v1/predict")            # the key's name; Refusal 401 or 429

Without a file everyone may ask: `check_exposure` allows that on loopback alone.
"""

import ipaddress
import logging
import math
import time
from collections.abc import Callable, Mapping

from serve.keys import Key, Keys, KeysError, read_keys
from serve.models.problems import FieldError, Refusal

LOGGER = logging.getLogger("ray.serve")
OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/healthz", "/readyz"})
OPEN_BELOW = "/page/"
"""What the service is, whether it lives, and the page's files; no answer of a model to anything that was asked."""
BURST_SECONDS = 10.0
"""A key that was silent may ask so many seconds' worth at once."""


class ExposureError(Exception):
    """The service would answer anyone who reaches this host."""


class Guard:
    """The keys as they are now, and what each has used."""

    def __init__(self, uri: str | None, shares: Callable[[], int] = lambda: 1) -> None:
        self.uri = uri
        self.keys = Keys() if uri is None else read_keys(uri)
        self._shares = shares
        self._free_at: dict[str, float] = {}
        self._failing = False

    def reload(self) -> None:
        """Read the file again; where it cannot be read the keys stay as they were, which is told once."""
        if self.uri is None:
            return
        try:
            self.keys = read_keys(self.uri)
        except KeysError as error:
            if not self._failing:
                LOGGER.error(f"The API keys stay as they were until they can be read again: {error}")
            self._failing = True
            return
        if self._failing:
            LOGGER.warning(f"The API keys can be read again: {self.uri}")
        self._failing = False

    def admit(self, headers: Mapping[bytes, bytes], path: str) -> str | None:
        """The name of the key that a request brings, None where none is needed; Refusal 401 or 429."""
        if self.uri is None or path in OPEN_PATHS or path.startswith(OPEN_BELOW):
            return None
        presented = _presented(headers)
        key = self.keys.find(presented) if presented else None
        if key is None:
            message = "Send an API key, as `Authorization: Bearer KEY`" if not presented else "There is no such API key"
            field = FieldError(field="Authorization", message=message)
            raise Refusal(401, "An API key is needed", [field], {"www-authenticate": "Bearer"})
        self._spend(key)
        return key.name

    def _spend(self, key: Key) -> None:
        """Count one request (generic cell rate algorithm); each replica allows its share of the key's rate."""
        if key.per_minute is None:
            return
        interval = 60.0 / key.per_minute * max(1, self._shares())
        now = time.monotonic()
        free_at = max(self._free_at.get(key.sha256, now), now)
        wait = free_at - now - max(BURST_SECONDS - interval, 0.0)
        if wait > 0:
            message = f"This key may ask {key.per_minute} times a minute"
            headers = {"retry-after": str(math.ceil(wait))}
            raise Refusal(429, "Too many requests", [FieldError(field="Authorization", message=message)], headers)
        self._free_at[key.sha256] = free_at + interval


def check_exposure(host: str | None, keys: str | None) -> None:
    """ExposureError where an address other than loopback is listened on and no keys are asked for."""
    if keys is None and not _is_loopback(host):
        raise ExposureError(
            f"Serve listens on {host or 'all addresses'}, and no API keys are asked for, so anyone who reaches this "
            "host could use the model. Make keys (python -m serve.keys add NAME --file FILE) and give the application "
            "keys: FILE, or listen on 127.0.0.1"
        )


def _is_loopback(host: str | None) -> bool:
    if host in ("localhost", "127.0.0.1", "::1"):
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _presented(headers: Mapping[bytes, bytes]) -> str:
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", b"").decode("latin-1").strip()
