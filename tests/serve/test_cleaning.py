"""How text is cleaned, and the way back to what was sent. `pytest tests/serve/test_cleaning.py`"""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve.cleaning.changes import Cleaned, Compositions
from serve.cleaning.cleaning import Cleaning
from serve.cleaning.joining import join_words
from serve.cleaning.tags import LONGEST_TAG, tags

PIECES = st.sampled_from(
    [
        *("good", "film", "a", "é", "e\u0301", "e\u0323\u0302", "\u0302\u0323", "\u0344", "\u0f73", "ﬁ"),
        *("\u1112", "\u1161", "\u11ab", "하\u11ab", "한", "\u0915\u093c", "\u09c7\u09be", "\U000114b9\U000114ba"),
        *("👩", "\u200d", "🚀", "\ufe0f", "☃", "🏴\U000e0067\U000e007f", "\U000e0067", "\U000e007f", "\u2126", "\u212b"),
        *("می", "خواهم", "\u200c", "\u200f", "ن", "ᠰ", "\u180e", "ภาษา", "\u200b", "中奖", "，", "\uf900", "\u3000", "ＡＢ"),
        *("<b>", "</b>", "<br/>", "<a x='", "'>", "<", ">", "<!--", "-->", "--", "/", "<ID>", "<i " + "x " * 90, "y" * 220),
        *(" ", "  ", "\t", "\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2000", "\xa0", "\n\n\n", "\x1f", "\x00"),
        *("\xad", "\ufeff", "\ue000", "\ud800", "\ufdd0", "\u0338", "=", "0", "_"),
    ]
)
TEXTS = st.lists(PIECES, max_size=16).map("".join) | st.text(max_size=24)
CLEANINGS = st.builds(
    Cleaning, unicode=st.booleans(), strip_tags=st.booleans(), max_characters=st.integers(1, 12) | st.just(100_000)
)


@given(TEXTS, CLEANINGS)
@example("\u2126\u200d\u2126", Cleaning())
@example("x\U000e007f\u200d☃", Cleaning())
@example("👩\u200d🚀", Cleaning(max_characters=2))
@example('<a title="<b>">x', Cleaning(strip_tags=True))
@settings(max_examples=1500, deadline=None)
def test_to_clean_a_clean_text_changes_nothing(text: str, cleaning: Cleaning) -> None:
    once = cleaning.cleaned(text).text
    assert cleaning.cleaned(once).text == once
    assert len(once) <= cleaning.max_characters


@given(TEXTS, CLEANINGS)
@settings(max_examples=1500, deadline=None)
def test_each_character_is_from_where_it_was_sent(text: str, cleaning: Cleaning) -> None:
    """Its stretch, cleaned by itself, has it in it, or is as empty as a space; none is before the last one's."""
    found = cleaning.cleaned(text)
    starts, ends = found.starts.tolist(), found.ends.tolist()
    assert len(starts) == len(ends) == len(found.text)
    assert starts == sorted(starts) and ends == sorted(ends)
    for place, character in enumerate(found.text):
        start, end = found.span(place, place + 1)
        assert 0 <= start < end <= len(text)
        stretch = text[start:end]
        if character in " \n":
            assert not cleaning.cleaned(stretch).text
        else:
            assert character in stretch or character in cleaning.cleaned(stretch).text
    if found.text:
        start, end = found.span(0, len(found.text))
        if not cleaning.strip_tags and len(found.text) < cleaning.max_characters:
            assert cleaning.cleaned(text[start:end]).text == found.text
    if not found.changed:
        assert found.text == text and starts == list(range(len(text)))


@given(st.lists(PIECES, max_size=16).map("".join) | st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=1500, deadline=None)
def test_stretches_are_composed_by_themselves_as_the_whole_is(text: str) -> None:
    composed = Cleaned(text).replace(list(Compositions(text)))
    assert composed.text == unicodedata.normalize("NFC", text)
    assert len(Cleaned(text).composed().starts) == len(composed.text)


@pytest.mark.parametrize(
    ("text", "cleaned", "word", "sent"),
    [
        ("<b>good</b> film", "good film", "good", "good"),
        ("<b>good</b> film", "good film", " ", "</b> "),
        ("one\r\ntwo", "one\ntwo", "\n", "\r\n"),
        ("the cafe\u0301 was", "the café was", "café", "cafe\u0301"),
        ("a soft\xadly said word", "a softly said word", "softly", "soft\xadly"),
        ("\ufeff  很好，<i>喜\u200d欢</i>！", "很好， 喜欢 ！", "喜欢", "喜\u200d欢"),
        ("한국어", "한국어", "국", "국"),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", "한국", "국", "\u1100\u116e\u11a8"),
        ("می\u200c\u200c\u200fخواهم", "می\u200cخواهم", "خواهم", "خواهم"),
    ],
)
def test_words_are_found_in_what_was_sent(text: str, cleaned: str, word: str, sent: str) -> None:
    found = Cleaning(strip_tags=True).cleaned(text)
    assert found.text == cleaned
    place = cleaned.index(word)
    start, end = found.span(place, place + len(word))
    assert text[start:end] == sent


def test_other_changes_go_on_from_there() -> None:
    """A mask stands for all that it hides, also where it is put into a text that has lost characters before."""
    text = "write to  <i>me@here.org</i>, or call"
    masked = Cleaning(strip_tags=True).cleaned(text)
    place = masked.text.index("me@")
    masked = masked.replace([(place, place + len("me@here.org"), "<EMAIL>")])
    assert masked.text == "write to <EMAIL> , or call"
    assert [text[slice(*masked.span(start, start + 1))] for start in (place, place + 6)] == ["me@here.org"] * 2
    assert text[slice(*masked.span(masked.text.index("call"), len(masked.text)))] == "call"
    put_in = masked.replace([(0, 0, "> ")])
    assert put_in.span(0, 1) == (0, 0) and put_in.span(2, 7) == masked.span(0, 5)


def test_what_is_put_into_nothing_stands_for_all_of_it() -> None:
    text = Cleaning(strip_tags=True).cleaned("<b> </b>")
    assert text.text == "" and text.span(0, 0) == (8, 8)
    assert text.replace([(0, 0, ".")]).span(0, 1) == (0, 8)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('<a title="<b>">good</a>', " good "),
        ("<<b>b> 1 < 2 > 3, x <3 y>", "< b> 1 < 2 > 3, x <3 y>"),
        ("a <!-- <b> --> b <!-- no end <i>", "a   b <!-- no end  "),
        ("<p <!-- > --> >x", " x"),
        ("</<b>p>", "</ p>"),
        ("<p>write to <EMAIL> or <PHONE></p>", " write to <EMAIL> or <PHONE> "),
        ("<a <IP>> <<ID> x> <email>", "<a <IP>> <<ID> x>  "),
        (f"<{'y' * LONGEST_TAG}><{'y' * LONGEST_TAG}z>", f" <{'y' * LONGEST_TAG}z>"),
        (f"<y{'  x' * 100}>", " "),
    ],
)
def test_tags_go_and_none_appears(text: str, left: str) -> None:
    assert Cleaned(text).replace(tags(text)).text == left


@pytest.mark.parametrize("text", ["<a " * 40_000 + ">" * 40_000, "<!--" * 40_000, "e\u0301" + "\u0f73" * 40_000 + "\u0323"])
def test_long_nonsense_takes_no_longer_than_it_is(text: str) -> None:
    """Each of them takes minutes where the time grows with the square of the length."""
    found = Cleaning(strip_tags=True, max_characters=1_000_000).cleaned(text)
    assert len(found.starts) == len(found.text)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["The", "film", "(", "of", "1999", ")", "was", "good", ",", "was", "n't", "it", "?"],
            "The film (of 1999) was good, wasn't it?",
        ),
        (["我", "很", "喜欢", "这部", "电影", "。"], "我很喜欢这部电影。"),
        (
            ["iPhone", "手机", "，", "2023", "年", "买", "的", "，", "真的", "good", "！"],
            "iPhone 手机，2023年买的，真的 good！",
        ),
        (["他", "说", "：", "“", "hello", "”", "。"], "他说：“hello”。"),
        (["東京", "へ", "行き", "ました"], "東京へ行きました"),
        (["ภาษา", "ไทย", "5", "คำ"], "ภาษาไทย 5 คำ"),
        (["한국", "사람"], "한국 사람"),
        (["2", "0", "2", "3", "年", "i", "O", "S"], "2023年iOS"),
        (["I", "U", "A"], "I U A"),
        (["مرحبا", "بالعالم", "!"], "مرحبا بالعالم!"),
        (["か\u3099", "い"], "か\u3099い"),
        (["", "a", "", "b"], "a b"),
        ([], ""),
    ],
)
def test_words_are_joined_by_one_rule_a_script(words: list[str], text: str) -> None:
    joined = join_words(words)
    assert joined.text == text
    assert [joined.text[start:end] for start, end in joined.spans] == words


@given(st.lists(st.text(max_size=5), max_size=12))
def test_each_word_stands_where_its_span_says(words: list[str]) -> None:
    joined = join_words(words)
    assert [joined.text[start:end] for start, end in joined.spans] == words
    between = [joined.text[end:start] for (_, end), (start, _) in zip(joined.spans, joined.spans[1:], strict=False)]
    assert set(between) <= {"", " "}
