"""Languages of texts, long and short."""

import pytest

from jobs.data.languages import NO_LANGUAGE, UNDETERMINED, known_languages, languages_of

CHINESE = "今天早上下了一场大雨,街上的行人都撑着伞。"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The rain had stopped by noon, and people folded their umbrellas again.", "en"),
        ("please cancel my order and send the money back", "en"),
        (CHINESE, "zh"),
        ("這本書的作者住在臺北,每天騎腳踏車上班。", "zh"),
        ("唔該,我想要兩杯凍檸茶,唔使袋,喺度飲。", "zh"),
        ("你好", "zh"),
        ("昨日は友達と映画を見に行きました。", "ja"),
        ("어제 친구와 함께 영화를 보러 갔어요.", "ko"),
        ("Der Regen hörte gegen Mittag auf, und alle klappten ihre Schirme zu.", "de"),
        ("La pluie s'est arrêtée vers midi et chacun a replié son parapluie.", "fr"),
        ("К полудню дождь закончился, и все сложили зонты.", "ru"),
        ("توقف المطر عند الظهر وطوى الناس مظلاتهم.", "ar"),
        ('<td class="x1"><a href="/p?id=881273&s=2">0x7f3a</a></td>' * 4, NO_LANGUAGE),
        ("", UNDETERMINED),
        ("ok", UNDETERMINED),
        ("😀 12", UNDETERMINED),
    ],
)
def test_the_language_of_a_text(text: str, language: str) -> None:
    assert languages_of([text]) == [language]


def test_texts_keep_their_places_and_long_ones_are_told_by_how_they_begin() -> None:
    long = CHINESE * 200 + " and then it goes on in English for a good while" * 2_000
    assert languages_of([long, "", "This is a plain sentence in English."]) == ["zh", UNDETERMINED, "en"]


def test_what_is_asked_to_be_sure_is_told_less_often() -> None:
    text = "Bonjour le monde"
    assert (languages_of([text], 0.3), languages_of([text], 0.999)) == (["fr"], [UNDETERMINED])


def test_codes_are_those_of_languages_and_parts_of_chinese_are_none() -> None:
    assert {"en", "zh", "de", "ja", "ar", NO_LANGUAGE} <= known_languages()
    assert not {"yue", "wuu", UNDETERMINED} & known_languages()
