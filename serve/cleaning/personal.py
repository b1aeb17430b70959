"""Personal data in a text: where it stands, of which kind, and masks in its place.

    found = find_personal("写信到 li@example.com 或拨打 138 1234 5678", ("email", "phone"))   # in the order of the text
    Cleaned(text).replace(masks(found)).text                                                # 写信到 <EMAIL> 或拨打 <PHONE>

Kinds: email, phone, card (payment cards), ip (IPv4, IPv6), id (resident identity cards and social credit codes of China,
social security numbers of the USA, National Insurance and NHS numbers of the UK). What has a check digit is found by it, what
has a form of its own by that, all else by a word that stands before it. Names, postal addresses and numbers in words are not
found: this is a help, and no guarantee.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import IPv6Address
from typing import NamedTuple

from serve.cleaning.changes import Edit
from serve.cleaning.masks import MASKS, REGIONS
from serve.cleaning.numbers import cards, identity_numbers
from serve.cleaning.phones import phones
from serve.cleaning.surroundings import covered, left_of, narrow

_TRACE = re.compile(r"\d|[@\uff20]|[0-9a-fA-F]:")
_SIX_DIGITS = re.compile(r"[0-9](?:[-. ()/]{0,2}[0-9]){5}")
"""What every phone, card and identity number has."""
_LETTER = r"A-Za-z0-9\u00c0-\u024f\u0370-\u052f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3"
_DOMAIN = re.compile(
    rf"(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.)+"
    r"((?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9@]|-[A-Za-z0-9])|中[国國]|公司|[网網][络絡址]|香港|台[湾灣]|рф|бел|укр|срб|한국)"
)
_MAILBOX = (
    re.compile(r"(?<![A-Za-z0-9_\u00c0-\u052f])[A-Za-z0-9_.%+'-]+\Z"),
    re.compile(r"(?:[\u3400-\u9fff]{1,4}|[^\W\u3400-\u9fff][\w.+-]*)\Z"),
)
"""What stands before the @: in ASCII; else up to four Han characters, which no space parts from what is before, or a word."""
_FILES = frozenset(("png", "jpg", "jpeg", "gif", "webp", "svg", "css", "js", "json", "html", "txt"))
"""What follows an @ as in `logo@2x.png` and is no domain."""
_IPV4 = re.compile(
    r"(?<![A-Za-z0-9_.-])(?<![^/]/)((?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?:\.(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3})"
    r"(:[0-9]{1,5}|/[0-9]{1,2})?(?![A-Za-z0-9_]|[.-][0-9A-Za-z])"
)
_IPV6 = re.compile(r"(?<![A-Za-z0-9_:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![A-Za-z0-9_:]|\.[0-9])")
_ADDRESS_SAID = re.compile(
    r"(?<![A-Za-z<])(?:ip|ipv[46]|host|server|dns|ping|ssh|地址|服务器|主机|网关)[^\n]{0,12}\Z", re.IGNORECASE
)
_VERSION_SAID = re.compile(
    r"(?<![A-Za-z])(?:v|ver|version|release|build|firmware|section|chapter|clause|版本号?|版|章|节|条|第)[\s.::]{0,3}\Z",
    re.IGNORECASE,
)
LEAST_HEX_DIGITS = 8
"""Fewer do not make an IPv6 address where no word says so: `a::b` is a name in a program."""


class PersonalSpan(NamedTuple):
    """Where personal data stands in a text, and of which kind it is."""

    start: int
    end: int
    kind: str


def find_personal(text: str, kinds: Sequence[str], regions: Sequence[str] = REGIONS) -> list[PersonalSpan]:
    """Personal data of these kinds, in the order of the text; none overlaps another.

    `regions`: ISO codes of the countries whose phone numbers are found in their national form; with a + all are.
    """
    if not _TRACE.search(text):
        return []
    plain = narrow(text)
    found: list[PersonalSpan] = []
    # Each goes out of the way of what is looked for after it: mailboxes have numbers in them, and cards parts of phones. Once
    # more until nothing is left, for what stood beside a number may have hidden another.
    finders: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
        "email": emails, "id": identity_numbers, "card": cards, "ip": ip_addresses, "phone": partial(phones, regions=regions)
    }  # fmt: skip
    numbers = _SIX_DIGITS.search(plain) is not None
    asked = [kind for kind in finders if kind in kinds and (numbers or kind in ("email", "ip"))]
    before = -1
    while before < len(found):
        before = len(found)
        for kind in asked:
            for start, end in finders[kind](plain):
                found.append(PersonalSpan(start, end, kind))
                plain = covered(plain, start, end)
    return sorted(found)


def masks(found: Sequence[PersonalSpan]) -> list[Edit]:
    """What puts a word in place of each of what was found in a text, as `find_personal` gives it: `<EMAIL>`."""
    return [(start, end, MASKS[kind]) for start, end, kind in found]


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Where e-mail addresses stand, those with letters of other scripts too."""
    last = 0
    for at in re.finditer("@", text):
        domain = _DOMAIN.match(text, at.end())
        if domain is None or domain[1].lower() in _FILES:
            continue
        before = text[max(last, at.start() - 64) : at.start()]
        mailbox = next((match for form in _MAILBOX if (match := form.search(before))), None)
        name = mailbox[0].lstrip(".%+'-") if mailbox else ""
        if name and not name.endswith("."):
            last = domain.end()
            yield at.start() - len(name), last


def ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Where IPv4 and IPv6 addresses stand.

    Four small numbers may be a version as well: they are an address if one of them has three digits, a port or a mask follows,
    or a word before says so.
    """
    for match in _IPV4.finditer(text):
        before = left_of(text, match.start())
        large = any(len(number) == 3 for number in match[1].split("."))
        if _ADDRESS_SAID.search(before) or ((large or match[2]) and not _VERSION_SAID.search(before)):
            yield match.span(1)
    for match in _IPV6.finditer(text):
        enough = sum(sign != ":" for sign in match[0]) >= LEAST_HEX_DIGITS
        if (enough or _ADDRESS_SAID.search(left_of(text, match.start()))) and _is_ipv6(match[0]):
            yield match.span()


def _is_ipv6(written: str) -> bool:
    try:
        return not IPv6Address(written).is_unspecified
    except ValueError:
        return False
