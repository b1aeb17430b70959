"""Numbers that say who someone is, or what is paid with: by their check digits, their rules, or a word before them."""

import re
from collections.abc import Callable, Iterator
from datetime import date

from stdnum import luhn
from stdnum.cn import ric, uscc
from stdnum.exceptions import ValidationError
from stdnum.gb import nhs
from stdnum.us import ssn

from serve.cleaning.surroundings import covered, left_of

_ALONE, _ENDS = r"(?<![0-9A-Za-z])(?<![0-9A-Za-z][.-])", r"(?![0-9A-Za-z]|[.-][0-9A-Za-z])"
_RESIDENT = re.compile(rf"{_ALONE}[1-9][0-9]{{5}}[ -]?(?:19|20)[0-9]{{2}}[ -]?[0-9]{{4}}[ -]?[0-9]{{3}}[0-9Xx]{_ENDS}")
_CREDIT_CODE = re.compile(rf"{_ALONE}[159Yy][1239][1-8][0-9]{{5}}[0-9A-HJ-NP-RTUWXYa-hj-np-rtuwxy]{{10}}{_ENDS}")
_SOCIAL_SECURITY = re.compile(rf"{_ALONE}[0-9]{{3}}(?:-[0-9]{{2}}-| ?[0-9]{{2}} ?)[0-9]{{4}}{_ENDS}")
_NATIONAL_INSURANCE = re.compile(
    rf"{_ALONE}(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]([ -]?)[0-9]{{2}}(?:\1[0-9]{{2}}){{2}}\1[A-D]{_ENDS}"
)
_HEALTH = re.compile(rf"{_ALONE}[0-9]{{3}}([ -]?)[0-9]{{3}}\1[0-9]{{4}}{_ENDS}")
_SECURITY_SAID = re.compile(r"(?<![A-Za-z<])(?:ssn|social security)[^\n]{0,16}\Z", re.IGNORECASE)
_HEALTH_SAID = re.compile(r"(?<![A-Za-z<])nhs[^\n]{0,16}\Z", re.IGNORECASE)
_DIGIT_RUN = re.compile(r"(?<![0-9A-Za-z])(?<![0-9][.,])[0-9]{4,19}(?:[ -][0-9]{1,13})*(?![0-9A-Za-z]|[.,][0-9])")
_GROUP = re.compile(r"[0-9]+")
_PRINTED = {(4, 4, 4, 4), *((4, 4, 4, 4, rest) for rest in (1, 2, 3)), (4, 6, 5), (4, 6, 4), (6, 10), (6, 13)}
"""How many digits the groups have that a card's number is printed in."""
_CARD = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2}|62[0-9]{2})[0-9]{12,15}"  # Discover, UnionPay
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}"  # Diners Club
    r"|220[0-4][0-9]{12}"  # Mir
)


def identity_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where numbers stand that states give to persons, and China to who trades."""
    forms: tuple[tuple[re.Pattern[str], Callable[[str, str], bool]], ...] = (
        (_RESIDENT, lambda number, before: _is_resident(number)),
        (_CREDIT_CODE, lambda number, before: uscc.is_valid(number)),
        (_NATIONAL_INSURANCE, lambda number, before: True),
        (_SOCIAL_SECURITY, _is_social_security),
        (_HEALTH, lambda number, before: _HEALTH_SAID.search(before) is not None and nhs.is_valid(number)),
    )
    for form, holds in forms:
        for match in form.finditer(text):
            start, end = match.span()
            if holds(match[0], left_of(text, start)):
                text = covered(text, start, end)
                yield start, end


def _is_resident(number: str) -> bool:
    """Whether the check digit is right and the date of birth a day that was. Places change, and no list has all of them."""
    number = re.sub("[ -]", "", number).upper()
    try:
        return number[-1] == ric.calc_check_digit(number) and ric.get_birth_date(number) <= date.today()
    except ValidationError:
        return False


def _is_social_security(number: str, before: str) -> bool:
    """Without hyphens it is one where a word says so."""
    said = "-" in number or _SECURITY_SAID.search(before) is not None
    return said and ssn.is_valid(number.replace(" ", ""))


def cards(text: str) -> Iterator[tuple[int, int]]:
    """Where numbers of payment cards stand: of a known scheme's length and beginning, with a right check digit (Luhn), whole
    or grouped as they are printed."""
    for run in _DIGIT_RUN.finditer(text):
        groups = [(run.start() + group.start(), run.start() + group.end()) for group in _GROUP.finditer(run[0])]
        place = 0
        while place < len(groups):
            last = _card_from(text, groups[place:])
            if last:
                yield groups[place][0], groups[place + last - 1][1]
            place += last or 1


def _card_from(text: str, groups: list[tuple[int, int]]) -> int:
    """How many of these groups of digits are a card's number; 0 where none is that begins here."""
    number = ""
    for count, (start, end) in enumerate(groups, 1):
        number += text[start:end]
        if len(number) > 19:
            return 0
        printed = tuple(last - first for first, last in groups[:count]) in _PRINTED
        if (count == 1 or printed) and _CARD.fullmatch(number) and luhn.is_valid(number):
            return count
    return 0
