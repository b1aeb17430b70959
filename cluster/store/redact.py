"""Secrets in what users write: found, so that they are refused before they reach a manifest, a log or the dashboard.

secret_in("s3://KEY:SECRET@bucket/runs")       # "a password in a URI"
redacted("token=hf_abc…")                      # "token=[secret]"

Secrets belong in the environment (AWS_SECRET_ACCESS_KEY, HF_TOKEN, …) or in the machine's role; the names are looked for, and
the forms that the usual services give theirs.
"""

import re

REDACTED = "[secret]"
REMEDY = "Leave it out: credentials come from the environment (AWS_SECRET_ACCESS_KEY, HF_TOKEN, …) or the machine's role."

_PATTERNS = (
    ("a password in a URI", re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/\s:@]*:)(?P<secret>[^/\s@]+)(?=@)", re.IGNORECASE)),
    (
        "a secret by its name",
        re.compile(
            r"(?P<before>\b[\w.-]*(?:password|passwd|secret(?:[_-]?(?:access)?[_-]?key)?|api[_-]?key|access[_-]?key(?:[_-]?id)?"
            r"|auth[_-]?token|access[_-]?token|hf[_-]?token|bearer)[\"']?\s*[=:]\s*[\"']?|[?&](?:sig|token)=)"
            r"(?P<secret>[^\s\"'&,}]+)",
            re.IGNORECASE,
        ),
    ),
    ("an access key of AWS", re.compile(r"(?P<before>)(?P<secret>\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)")),
    ("a token of a model hub", re.compile(r"(?P<before>)(?P<secret>\bhf_[A-Za-z0-9]{20,}\b)")),
    (
        "a token of a code host",
        re.compile(r"(?P<before>)(?P<secret>\b(?:gh[pos]|github_pat)_\w{30,})"),
    ),
    ("a private key", re.compile(r"(?P<before>)(?P<secret>-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*)")),
)


def secret_in(text: str) -> str | None:
    """What kind of secret a text holds, or None."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(text)), None)


def redacted(text: str) -> str:
    """The text with its secrets hidden."""
    for _, pattern in _PATTERNS:
        text = pattern.sub(lambda found: found["before"] + REDACTED, text)
    return text
