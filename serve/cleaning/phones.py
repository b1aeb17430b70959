"""Phone numbers: by phonenumbers (Google's libphonenumber, Apache), where their form or a word before them says what they are.

    list(phones("call (415) 555-2671 or +44 20 7946 0958", ("US",)))

With a + a number is one of any country. In a country's own form it must be grouped as is usual there, or follow a word such as
`phone`: an order has a number too. A Chinese mobile number needs neither, unless a word says that it is another number.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from serve.cleaning.surroundings import covered, left_of

_RUN = re.compile(
    r"(?<![0-9A-Za-z_/$€£¥#@])(?<![0-9A-Za-z][-+])(?:\+ ?\(?|\(|(?<![0-9][.,]))"
    r"[0-9](?:[-. ()/]{0,2}[0-9]){6,24}(?![0-9A-Za-z_@%]|[.,][0-9]| ?[元块])"
)
_SAID = re.compile(
    r"(?<![A-Za-z<])(?:tel|phones?|telephone|call|ring|dial|mobile|cell|fax|text|sms|whatsapp|contact)(?![A-Za-z])[^\n;]{0,20}\Z"
    r"|(?:电话|手机|联系|致电|拨打|热线|传真|座机|微信|電話|手機|聯絡|來電|傳真)[^\n。;]{0,14}\Z",
    re.IGNORECASE,
)
_OTHER_SAID = re.compile(
    r"(?:(?<![A-Za-z<])(?:order|invoice|tracking|ticket|ref|reference|serial|part|isbn|account|id|no|number|version)\b\.?"
    r"|[订单编货账帐卡学工案批流水序票]号码?|订单|QQ群?|#)[\s:：#.]*(?:no\.?|number|id|号码?|编号|is|是|为)?[\s:：#.]*\Z",
    re.IGNORECASE,
)
_COLUMNS = re.compile(r"[0-9]+(?:\.[0-9]+)?(?: {1,2}[0-9]+(?:\.[0-9]+)?)+")
_MOBILE_COLUMN = re.compile(r"(?<![0-9.])1[3-9](?:[0-9]{9}|[0-9] [0-9]{4} [0-9]{4})(?![0-9.])")
MOST_DIGITS = 15
"""What a phone number has at most (ITU-T E.164)."""
_CHINESE_MOBILE = re.compile(r"(?:86)?1[3-9][0-9]{9}")
_CHINESE_LINE = re.compile(r"\(?0[1-9][0-9]{1,2}\)?[- ]?[2-8][0-9]{6,7}")


def phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where phone numbers stand."""
    for run in _RUN.finditer(text):
        for start, end in _candidates(text, *run.span(), tuple(regions)):
            if _is_phone(text[start:end], left_of(text, start), tuple(regions)):
                text = covered(text, start, end)
                yield start, end


def _candidates(text: str, start: int, end: int, regions: tuple[str, ...]) -> list[tuple[int, int]]:
    """Valid numbers in a run of digits; in a row of a table Chinese mobile numbers alone, for any columns make a number."""
    run = text[start:end]
    columns = _COLUMNS.fullmatch(run) and (sum(map(str.isdigit, run)) > MOST_DIGITS or _in_row(text, start, end))
    if columns and not _SAID.search(left_of(text, start)):
        spans = [match.span() for match in _MOBILE_COLUMN.finditer(run)] if "CN" in regions else []
    else:
        spans = _numbers(run, regions)
    return [(start + first, start + last) for first, last in spans]


def _in_row(text: str, start: int, end: int) -> bool:
    return (
        re.search(r"[0-9] \Z", text[max(0, start - 2) : start]) is not None
        or re.match(" [0-9]", text[end : end + 2]) is not None
    )


def _numbers(run: str, regions: tuple[str, ...], strict: bool = False) -> list[tuple[int, int]]:
    """Valid numbers in a run of digits, those of any region; of two that overlap the longer one."""
    from phonenumbers import Leniency, PhoneNumberMatcher

    leniency = Leniency.STRICT_GROUPING if strict else Leniency.VALID
    valid = {
        (match.start, match.end)
        for region in regions or (None,)
        for match in PhoneNumberMatcher(run, region, leniency=leniency)
    }
    found: list[tuple[int, int]] = []
    for start, end in sorted(valid, key=lambda span: (span[0] - span[1], span)):
        if all(end <= first or last <= start for first, last in found):
            found.append((start, end))
    return sorted(found)


def _is_phone(written: str, before: str, regions: tuple[str, ...]) -> bool:
    if written.startswith("+") or _SAID.search(before):
        return True
    if _OTHER_SAID.search(before):
        return False
    digits = re.sub("[^0-9]", "", written)
    if "CN" in regions and (_CHINESE_MOBILE.fullmatch(digits) or (written != digits and _CHINESE_LINE.fullmatch(written))):
        return True
    return written != digits and (0, len(written)) in _numbers(written, regions, strict=True)


@lru_cache(maxsize=1)
def known_regions() -> frozenset[str]:
    """The ISO codes of countries whose phone numbers are known."""
    from phonenumbers import SUPPORTED_REGIONS

    return frozenset(SUPPORTED_REGIONS)
