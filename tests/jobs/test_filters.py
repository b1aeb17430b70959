"""Filters on texts of which it is known whether they should stay. `pytest tests/jobs/test_filters.py`"""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.core.config import BadInput, Problem
from jobs.core.recipe import parse_recipe
from jobs.data.boilerplate import content_lines, main_text
from jobs.data.filters import Filters
from jobs.data.quality import Gopher, broken_rule
from jobs.prepare import PrepareConfig
from tests.jobs.articles import CHINESE, ENGLISH, page

WORDS = ("river", "stone", "market", "window", "letter", "garden", "winter", "morning", "bread", "paper", "candle")


def sifted(texts: list[str], **filters: Any) -> tuple[list[str], dict[str, int]]:
    """The texts that are left, changed or not, and what was counted."""
    tally: Counter[str] = Counter()
    asked = Filters.model_validate(filters)
    for sieve in (*asked.pages(), *asked.sieves()):
        found, gone = sieve.sift(texts, tally)
        assert len(found) == len(texts) and all(": " in why for why in gone.values())
        texts = [text for place, text in enumerate(found) if place not in gone]
    return texts, dict(tally)


def test_nothing_is_filtered_unless_it_is_asked_for() -> None:
    assert sifted(["", "{", "ok", "ok ok ok ok"]) == (["", "{", "ok", "ok ok ok ok"], {})


def test_texts_in_other_languages_go_and_short_ones_stay_counted() -> None:
    texts = [ENGLISH, CHINESE, "ok", "Der Regen hörte gegen Mittag auf, und alle klappten ihre Schirme wieder zu."]
    kept, tally = sifted(texts, language=["en", "zh"])
    assert kept == texts[:3] and tally == {"rows_filtered_language": 1, "texts_language_unknown": 1}
    kept, tally = sifted(texts, language=["zh"])
    assert kept == texts[1:3] and tally["rows_filtered_language"] == 2


def test_lengths_are_in_words_or_in_chinese_characters() -> None:
    texts = ["one two three", "一二三", "三个字,也算", "one two", "a " * 11]
    kept, tally = sifted(texts, length={"min_words": 3, "max_words": 10})
    assert kept == texts[:3] and tally == {"rows_filtered_length": 2}


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_normal_article_keeps_all_rules_of_gopher(text: str) -> None:
    assert broken_rule(text, Gopher(stop_words=2)) is None


def varied(count: int) -> str:
    """Words of which none follows another twice in the same way."""
    return " ".join(WORDS[(place * place + place // 7) % len(WORDS)] + str(place) for place in range(count))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("too short to say anything", "words"),
        ("a b c d e f g h i j " * 6, "word_length"),
        ("#tag " * 30 + varied(40), "symbols"),
        (" ".join(f"word{number}..." for number in range(9)) + varied(60), "symbols"),
        ("\n".join(f"- {varied(4)} item {number}" for number in range(30)), "bullets"),
        ("\n".join(f"{varied(15)} {number} more to come…" for number in range(12)), "ellipses"),
        ("12 34 5.6 78-90 11:22 " * 20 + varied(30), "letters"),
        ("\n".join(["the same line stands here again and again", *map(varied, range(11, 14))] * 4), "repeated_lines"),
        ("win a prize " * 40, "top_ngrams"),
        (" ".join([varied(60)] * 2), "repeated_ngrams"),
        ("买一送一,快来抢购! " * 20, "top_ngrams"),
        (CHINESE.replace("\n\n", "") * 2, "repeated_ngrams"),
        ("一二三四", "words"),
        ("- 苹果\n- 香蕉\n- 樱桃\n- 葡萄\n- 西瓜\n" * 5, "bullets"),
    ],
)
def test_what_is_no_running_text_or_repeats_itself_breaks_a_rule(text: str, rule: str) -> None:
    broken = broken_rule(text, Gopher())
    assert broken is not None and broken[0] == rule


def test_stop_words_are_asked_for_in_the_language_of_the_text() -> None:
    headlines = " ".join(f"Shares fell {name} markets closed lower" for name in WORDS)
    assert broken_rule(headlines, Gopher(top_ngrams={}, repeated_ngrams={})) is None
    broken = broken_rule(headlines, Gopher(top_ngrams={}, repeated_ngrams={}, stop_words=2))
    assert broken == ("stop_words", "0, less than 2")
    names = "".join(chr(0x4E00 + number * 3) for number in range(100))
    broken = broken_rule(names, Gopher(stop_words=2))
    assert broken is not None and broken[0] == "stop_words"


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_the_share_of_repeated_words_is_counted_as_by_hand(once: int, more: int) -> None:
    """Of a run of unlike words and its beginning once more, the beginning is repeated, if it has an n-gram."""
    run = [f"word{number:03}" for number in range(once)]
    again = run[: min(more, once)]
    share = len(again) / (len(run) + len(again)) if len(again) >= 5 else 0.0
    rules = {"min_words": 0, "letters": 0, "symbols": 9, "top_ngrams": {}}
    for limit, breaks in ((share - 0.001, share > 0), (share + 0.001, False)):
        if 0 <= limit <= 1:
            broken = broken_rule(" ".join(run + again), Gopher.model_validate(rules | {"repeated_ngrams": {5: limit}}))
            assert (broken is not None) == breaks


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_measured(text: str) -> None:
    broken_rule(text, Gopher(min_words=0, stop_words=2))
    assert content_lines(content_lines(text)) == content_lines(text)


@pytest.mark.parametrize(("article", "chinese"), [(ENGLISH, False), (CHINESE, True)])
def test_of_a_page_its_article_is_left(article: str, chinese: bool) -> None:
    assert main_text(page(article, chinese)) == article


def test_pages_without_a_main_text_go_and_what_is_no_page_stays() -> None:
    menu = '<html><body><nav><a href="/">Home</a><a href="/a">About</a></nav><footer>© 2024</footer></body></html>'
    kept, tally = sifted([menu, ENGLISH, "<p>今天天气很好。</p>"], html="extract")
    assert kept == [ENGLISH, "今天天气很好。"] and tally == {"rows_filtered_html": 1}


@pytest.mark.parametrize("hostile", ["<div>" * 100_000, "\ud800<p>a</p>", "<p>\x00</p>", "<p>&#xd800;</p>", "<", "<!--"])
def test_a_hostile_page_stops_nothing(hostile: str) -> None:
    kept, _ = sifted([hostile, page(CHINESE, True)], html="extract")
    assert kept[-1] == CHINESE


NOTICES = """Skip to content
We use cookies to improve your experience.
Please enable JavaScript to view this page.
Share on Facebook
© 2024 Harbour Times. All rights reserved.
本网站使用Cookie以提升您的体验。
请启用JavaScript后继续浏览
版权所有 © 海港新闻网 京ICP备12345678号
分享到:微信 微博
上一篇:渡轮票价即将上调
您现在的位置:首页 > 新闻
未经授权,不得转载"""


@pytest.mark.parametrize("notice", NOTICES.splitlines())
def test_notices_go_from_among_the_lines_of_a_text(notice: str) -> None:
    for article in (ENGLISH, CHINESE):
        title, rest = article.split("\n\n", 1)
        assert content_lines(f"{notice}\n{title}\n\n{notice}\n\n{rest}\n{notice}") == article


@pytest.mark.parametrize(
    "line",
    [
        "I baked cookies for the whole class.",
        "He taught himself JavaScript in a winter.",
        "Where do I find your privacy policy?",
        "He shared on this occasion what he had.",
        "她用曲奇饼干招待客人。",
        "我在登录页面上点了三次,还是进不去。",
        "The register was full of names.",
    ],
)
def test_sentences_that_speak_of_such_things_stay(line: str) -> None:
    assert content_lines(line) == line


def test_repeated_lines_go_but_short_ones() -> None:
    kept, tally = sifted(
        [
            'The ferry leaves at six.\n"No."\nThe ferry leaves at six.\n"No."',
            "Lorem ipsum dolor sit amet",
            "function() { return; }",
            "We use cookies.\n© 2024",
            "as it was",
        ],
        boilerplate=True,
    )
    assert kept == ['The ferry leaves at six.\n"No."\n"No."', "as it was"]
    assert tally == {"texts_without_boilerplate": 1, "rows_filtered_boilerplate": 3}


def refusal(filters: dict[str, Any]) -> Problem:
    """The one thing that is wrong with a recipe that has these filters."""
    with pytest.raises(BadInput) as caught:
        steps = {"rows": {"stage": "prepare", "source": "a.csv", "tokenizer": {"train": "wordpiece"}, "filters": filters}}
        parse_recipe({"name": "tiny", "steps": steps})
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("filters", "path", "told"),
    [
        ({"language": ["english"]}, "language", "english is the code of no language"),
        ({"language": ["zh", "yue"]}, "language", "yue is the code of no language"),
        ({"language_confidence": 1.5}, "language_confidence", "less than 1"),
        ({"length": {"min_words": 10, "max_words": 5}}, "length", "at least 10 words and at most 5"),
        ({"quality": {"letters": 1.2}}, "quality.letters", "less than or equal to 1"),
        ({"quality": {"top_ngrams": {2: -1}}}, "quality.top_ngrams", "2: -1 is no share"),
        ({"quality": {"repeated_ngrams": {0: 0.5}}}, "quality.repeated_ngrams", "0: 0.5 is no share"),
        ({"quality": {"stopwords": 2}}, "quality.stopwords", "no such key"),
        ({"quality": "c4"}, "quality", "gopher"),
        ({"html": "text"}, "html", "extract"),
    ],
)
def test_filters_that_mean_nothing_are_refused(filters: dict[str, Any], path: str, told: str) -> None:
    problem = refusal(filters)
    assert problem.path == f"steps.rows.filters.{path}" and told in problem.reason


def test_gopher_is_a_name_or_the_thresholds_that_differ() -> None:
    base = {"source": "a.csv", "tokenizer": {"train": "wordpiece"}}
    by_name = PrepareConfig.model_validate(base | {"filters": {"quality": "gopher"}})
    own = PrepareConfig.model_validate(base | {"filters": {"quality": {"min_words": 5}}})
    assert by_name.filters.quality == Gopher() and own.filters.quality == Gopher(min_words=5)
    assert PrepareConfig.model_validate(by_name.model_dump(mode="json")) == by_name
