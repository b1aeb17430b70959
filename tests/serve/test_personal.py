"""Personal data in English and Chinese: what is found, and what only looks like it. `pytest tests/serve/test_personal.py`"""

import ipaddress
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.cleaning.changes import Cleaned
from serve.cleaning.cleaning import Cleaning
from serve.cleaning.masks import MASKS, PERSONAL_KINDS
from serve.cleaning.personal import find_personal, masks


def hidden(text: str, kinds: tuple[str, ...] = PERSONAL_KINDS) -> str:
    """The text with all masked that is found in it."""
    return Cleaned(text).replace(masks(find_personal(text, kinds))).text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Write to ann.carter+news@mail.example.co.uk, please.", "Write to <EMAIL>, please."),
        ("<bob@example.com>", "<<EMAIL>>"),
        ("有问题请联系我li_wei@example.com谢谢", "有问题请联系我<EMAIL>谢谢"),
        ("邮箱：ｌｉ＠ｅｘａｍｐｌｅ．ｃｏｍ。", "邮箱：<EMAIL>。"),
        ("写信给 李伟@例子.中国 即可", "写信给 <EMAIL> 即可"),
        ("jürgen@straße.de or почта@пример.рф", "<EMAIL> or <EMAIL>"),
        ("13812345678@example.cn", "<EMAIL>"),
        ("a@example.com,b@example.com", "<EMAIL>,<EMAIL>"),
    ],
)
def test_mail_addresses(text: str, left: str) -> None:
    assert hidden(text) == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("call +44 20 7946 0958 now", "call <PHONE> now"),
        ("+86 138 1234 5678", "<PHONE>"),
        ("(415) 555-2671, 415-555-2671 or 415.555.2671.", "<PHONE>, <PHONE> or <PHONE>."),
        ("my number: phone 4155552671", "my number: phone <PHONE>"),
        ("Tel. 02079460018 / 07700 900123", "Tel. <PHONE> / <PHONE>"),
        ("手机号13812345678谢谢", "手机号<PHONE>谢谢"),
        ("138 1234 5678或138-1234-5679", "<PHONE>或<PHONE>"),
        ("电话：１３８－１２３４－５６７８", "电话：<PHONE>"),
        ("办公室010-62781234,(021) 5888 1234", "办公室<PHONE>,<PHONE>"),
        ("13812345678 13912345678 12 138 1234 5678", "<PHONE> <PHONE> 12 <PHONE>"),
        ("客服热线400-820-8820", "客服热线<PHONE>"),
        ("👋🏽 打我手机 13912345678 😀", "👋🏽 打我手机 <PHONE> 😀"),
    ],
)
def test_phone_numbers(text: str, left: str) -> None:
    assert hidden(text) == left


def test_national_forms_are_those_of_the_regions_that_are_asked_for() -> None:
    text = "030 901820 and +49 30 901820"
    assert hidden(text) == "030 901820 and <PHONE>"
    assert Cleaned(text).replace(masks(find_personal(text, ["phone"], ["DE"]))).text == "<PHONE> and <PHONE>"
    assert Cleaned(text).replace(masks(find_personal(text, ["phone"], []))).text == "030 901820 and <PHONE>"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("card 4111 1111 1111 1111, exp 12/27", "card <CARD>, exp 12/27"),
        ("4111-1111-1111-1111 or 378282246310005", "<CARD> or <CARD>"),
        ("卡号５５５５５５５５５５５５４４４４。", "卡号<CARD>。"),
        ("银行卡6222 0200 0000 0000 00 7 不是卡", "银行卡6222 0200 0000 0000 00 7 不是卡"),
        ("My SSN is 123-45-6789", "My SSN is <ID>"),
        ("social security number 123 45 6789", "social security number <ID>"),
        ("NI number: AB 12 34 56 C; AB123456C", "NI number: <ID>; <ID>"),
        ("NHS number 943 476 5870", "NHS number <ID>"),
        ("身份证号11010519491231002X,住北京", "身份证号<ID>,住北京"),
        ("身份证：１１０１０５ １９４９１２３１ ００２Ｘ", "身份证：<ID>"),
        ("统一社会信用代码91110000600037341L", "统一社会信用代码<ID>"),
        ("ping 8.8.8.8 from 203.0.113.77:8080", "ping <IP> from <IP>:8080"),
        ("服务器地址是10.0.0.1。", "服务器地址是<IP>。"),
        ("http://192.168.1.20/admin", "http://<IP>/admin"),
        ("from 2001:db8::8a2e:370:7334 at noon", "from <IP> at noon"),
    ],
)
def test_cards_numbers_of_persons_and_addresses_of_machines(text: str, left: str) -> None:
    assert hidden(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Version 1.2.3.4 of the driver, v10.200.3.4, firmware 2.4.103.1",
        "Section 3.2.1.4 and 999.1.1.300",
        "On 2024-05-12 at 13:45:10, 12/31/2023, 20240512 1345",
        "2024年5月12日13时45分,2023-11-05至2024-05-12",
        "order 4155552671, invoice no. 415-555-2671, ref 12345678901",
        "订单号13812345678,快递单号：73120012345678",
        "价格13800.00元,销量13812345678元,$4155552671",
        "It cost 1,234,567.89 and weighs 3.1415926535897932 kg",
        "212 555 0123 303 555 4567 12.5 415 555 2671 99",
        "chapter 12 345 678, pages 1001-1024, 1914-1918",
        "ISBN 978-7-111-40701-0 / 9787111407010",
        "1700000000 1700000000000 6222021234567890123",
        "4111 1111 1111 1112 and 4111111111111112",
        "110105194912310021 has a wrong check digit",
        "11010519491331002X has no such month",
        "000-12-3456 666-12-3456 900-12-3456",
        "BG123456C, GB 12 34 56 C",
        "@handle, foo@bar, logo@2x.png, 5 apples @ 3.50, a@b@c",
        "std::vector<a::b>, 12:30:45, 00:1A:2B:3C:4D:5E, ::, fe80::1",
        "第12345678号,学号20231234567,QQ群13812345678",
        "no digit and no sign at all",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert hidden(text) == text


def luhn_digit(number: str) -> str:
    """The check digit of a card's number without one (ISO/IEC 7812-1)."""
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(number))]
    return str(-sum(value - 9 if value > 9 else value for value in doubled) % 10)


@settings(deadline=None)
@given(st.sampled_from(["4", "51", "55", "2221", "6011", "62", "3530"]), st.data())
def test_cards_are_found_by_their_check_digit(prefix: str, data: st.DataObject) -> None:
    body = prefix + data.draw(st.text("0123456789", min_size=15 - len(prefix), max_size=15 - len(prefix)))
    right = luhn_digit(body)
    wrong = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != right]))
    for sign, found in ((right, True), (wrong, False)):
        number = body + sign
        for written in (number, " ".join(number[place : place + 4] for place in range(0, 16, 4))):
            text = f"卡号 {written},谢谢😀"
            assert [one.kind for one in find_personal(text, ["card"])] == ["card"] * found
            assert not found or hidden(text, ("card",)) == "卡号 <CARD>,谢谢😀"


def resident_digit(number: str) -> str:
    """The check digit of a Chinese identity card's number (GB 11643-1999)."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(number, weights, strict=True)) % 11]


@settings(deadline=None)
@given(
    st.integers(210000, 469999),
    st.dates(min_value=date(1900, 1, 1), max_value=date(2020, 1, 1)),
    st.integers(0, 999),
    st.data(),
)
def test_identity_cards_are_found_by_their_check_digit(place: int, born: date, order: int, data: st.DataObject) -> None:
    body = f"{place}{born:%Y%m%d}{order:03}"
    right = resident_digit(body)
    assert hidden(f"证{body}{right}。", ("id",)) == "证<ID>。"
    wrong = data.draw(st.sampled_from([sign for sign in "0123456789X" if sign != right]))
    assert hidden(f"证{body}{wrong}。", ("id",)) == f"证{body}{wrong}。"


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_addresses_are_found_after_a_word_that_says_so(address: ipaddress.IPv4Address) -> None:
    assert hidden(f"the ip {address}, and on", ("ip",)) == "the ip <IP>, and on"


PIECES = (
    *("13812345678", "415-555-2671", "4155552671", "+44 20 7946 0958", "4111111111111111", "4111 1111 1111 1111", "8.8.8.8"),
    *(
        "203.0.113.77",
        "::ffff:192.168.1.1",
        "li@example.com",
        "李伟@例子.中国",
        "11010519491231002X",
        "123-45-6789",
        "AB 12 34 56 C",
        "２０２４",
    ),
    *(
        "phone",
        "电话",
        "order",
        "订单号",
        "ip",
        "NHS",
        "943 476 5870",
        "😀",
        "12",
        "2024-05-12",
        "+",
        "(",
        "v",
        "@",
        "中文",
        "<ID>",
    ),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " ", ",", "\n", "。", "-", ":", "."])), max_size=12))
def test_masks_leave_nothing_that_is_masked_again(pieces: list[tuple[str, str]]) -> None:
    text = "".join(piece + sign for piece, sign in pieces)
    found = find_personal(text, PERSONAL_KINDS)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    once = Cleaned(text).replace(masks(found)).text
    assert hidden(once) == once


@settings(deadline=None)
@given(st.text(), st.text())
def test_offsets_are_those_of_the_text(before: str, after: str) -> None:
    text = f"{before} 🇬🇧 ann@example.com 🧑‍🚀 {after}"
    spans = [text[one.start : one.end] for one in find_personal(text, ["email"])]
    assert "ann@example.com" in spans


@settings(deadline=None)
@given(st.text(), st.sets(st.sampled_from(PERSONAL_KINDS)))
def test_only_kinds_that_are_asked_for_are_found(text: str, kinds: set[str]) -> None:
    mixed = f"{text} ann@example.com 8.8.8.8/24 4111111111111111 tel 13812345678 AB123456C"
    assert {one.kind for one in find_personal(mixed, sorted(kinds))} <= kinds


def test_what_is_masked_in_training_is_masked_when_served_with_the_way_back() -> None:
    cleaning = Cleaning(strip_tags=True, masks=("email", "phone"))
    sent = "<p>写信到 li@example.com 或拨打 138 1234 5678，卡号 4111 1111 1111 1111</p>"
    found = cleaning.cleaned(sent)
    assert found.text == "写信到 <EMAIL> 或拨打 <PHONE>，卡号 4111 1111 1111 1111"
    at = found.text.index("<EMAIL>")
    assert sent[slice(*found.span(at, at + len("<EMAIL>")))] == "li@example.com"
    assert sent[slice(*found.span(found.text.index("卡"), found.text.index("号") + 1))] == "卡号"
    assert cleaning.cleaned(found.text).text == found.text, "EXAMPLES are cleaned once more where they are judged on"
    assert set(MASKS) == set(PERSONAL_KINDS)
