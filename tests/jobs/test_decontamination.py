"""Documents that hold what another step tests on are found and taken out. `pytest tests/jobs/test_decontamination.py`"""

import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.connection.connect import Cluster
from jobs.core.config import BadInput
from jobs.core.recipe import Recipe, parse_recipe
from jobs.data.decontamination import SIGNS, WORDS, HeldOut, Units, held_out
from jobs.data.training_rows import read_examples
from jobs.report.sections import left_out
from jobs.running.execute import execute
from jobs.running.parents import parent_problems
from jobs.running.plan import look
from tests.jobs.test_nesting import text_of

ROOT = Path(__file__).parents[2]
ENGLISH = "Sorry, I won't be home before nine tonight: the last train from Oxford has been cancelled again"
CHINESE = "今天晚上七点半在老地方见面，记得把上次借的那本书带来还给我。"
SHORT = "Call 0900-555 now to claim your free prize"
SHORT_CHINESE = "恭喜您获得本店大奖，请回电领取"
BRIEF, SIGNLESS = "See you!", ":-) !!"
HELD = (ENGLISH, CHINESE, SHORT, SHORT_CHINESE, BRIEF, SIGNLESS, "好的，谢谢")


def goes(document: str, held: HeldOut | None = None) -> str | None:
    """Why a document is taken out."""
    tally: Counter[str] = Counter()
    texts, gone = (held or held_out({"messages": HELD})).sift([document], tally)
    assert texts == [document] and tally["rows_excluded"] == len(gone)
    return gone.get(0)


@pytest.mark.parametrize(
    "document",
    [
        ENGLISH,
        "SORRY I WON'T be home before nine tonight... the last train from Oxford!!! So said he.",
        "He wrote “I won’t be home before nine tonight – the last train from Oxford has been cancelled again” and left.",
        "He wrote: I won't be\nhome before   nine tonight\tthe last train from Oxford has been…",
        CHINESE,
        "短信说：今天晚上七点半在老地方见面 记得把上次借的那本书带来。然后就没有了",
        "短信说:「今天晚上七点半在老地方见面、记得把上次借的那本书带来还给我」",
        "今天晚上七点半在老地方见面，记得把上次借的那本书",
        "They said: call 0900 555 now, to claim your FREE prize, today",
        "我收到一条短信：“恭喜您获得本店大奖请回电领取”，是真的吗",
        "see you",
        "See  you?",
        ":-)  !!",
        "好的谢谢!",
        "ｓｅｅ　ｙｏｕ",
    ],
)
def test_what_holds_a_held_text_goes(document: str) -> None:
    assert goes(document) is not None


@pytest.mark.parametrize(
    "document",
    [
        "",
        "Sorry, I won't be home before nine tonight: the last bus from Oxford has been cancelled again",
        "the last train from Oxford has been cancelled again",
        "今天晚上七点半在老地方见面，记得把上次借",
        "今天晚上七点半在老地方见面，不要忘了把上次借的那本书带来还给我。",
        "We shall see you at the station.",
        "好的谢谢你",
        "Call 0900-555 now to claim your prize",
        "恭喜您获得本店大奖，请电回领取",
        ":-( !!",
        "🎉",
    ],
)
def test_what_shares_less_stays(document: str) -> None:
    assert goes(document) is None


def test_a_run_of_words_does_not_go_on_into_the_next_text() -> None:
    halves = ["Sorry, I won't be home before nine tonight", "the last train from Oxford has been cancelled again"]
    assert held_out({"messages": [ENGLISH]}).sift(halves, Counter())[1] == {}
    assert held_out({"messages": halves}).sift([" ".join(halves)], Counter())[1] != {}, "8 words of a whole text are in it"


def test_what_is_shared_and_with_which_step_is_told() -> None:
    held = held_out({"messages": [ENGLISH], "reviews": [CHINESE, ENGLISH]})
    assert goes(f"well, {ENGLISH}", held) == (
        "shares 'sorry, i wont be home before nine tonight: the last train from oxford' with what messages holds out"
    )
    told = goes("记得，今天晚上七点半在老地方见面，记得把上次借的那本书带来还给我", held)
    assert told == "shares '今天晚上七点半在老地方见面,记得把上次借的' with what reviews holds out"
    assert goes(CHINESE, held) == "it is what reviews holds out"
    assert goes("anything", held_out({})) is None


def units(text: str) -> list[str]:
    """Words and Chinese signs, as Python's expressions see them."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "")
    return re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", folded)


def shares(document: str, text: str) -> bool:
    """What the docstring says, one comparison after the other."""

    def runs(found: list[str], length: int) -> set[tuple[str, ...]]:
        return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}

    def signs(run: tuple[str, ...]) -> bool:
        return any("\u4e00" <= one <= "\u9fff" for one in run)

    own, other = units(document), units(text)
    grams = {run for run in runs(other, WORDS) if not signs(run)} | {run for run in runs(other, SIGNS) if signs(run)}
    if not grams and len(other) >= (12 if signs(tuple(other)) else 8):
        grams = {tuple(other)}
    return any(grams & runs(own, length) for length in {len(run) for run in grams}) or (own == other and bool(own))


WORD = st.sampled_from(["a", "B", "c3", "I'm", "im", "été", "ǅ", "да", "的", "了", "好的", "ｗ", "a", "的"])
GAP = st.sampled_from([" ", ", ", "\n", "…", " – "])
TEXT = st.lists(st.tuples(WORD, GAP), max_size=45).map(lambda parts: "".join(word + gap for word, gap in parts))


@given(data=st.data(), documents=st.lists(TEXT, min_size=1, max_size=4), texts=st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_it_is_what_comparing_all_runs_finds(data: st.DataObject, documents: list[str], texts: list[str]) -> None:
    """Among documents of which some have a part of a text planted."""
    planted = []
    for document in documents:
        text = data.draw(st.sampled_from(texts))
        first = data.draw(st.integers(0, len(text)))
        planted.append(document + text[first : data.draw(st.integers(first, len(text)))])
    texts = [text for text in texts if units(text)]
    _, gone = held_out({"step": texts}).sift(planted, Counter())
    expected = {place for place, document in enumerate(planted) if any(shares(document, text) for text in texts)}
    assert set(gone) == expected


def test_many_texts_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(5000)}" for _ in range(40)) for _ in range(300)]
    documents = [texts[number] if number % 7 == 0 else text[::-1] for number, text in enumerate(texts)]
    _, whole = held_out({"step": texts}).sift(documents, Counter())
    monkeypatch.setattr("jobs.data.decontamination.CHUNK_CHARACTERS", 1000)
    tally: Counter[str] = Counter()
    _, parts = held_out({"step": texts}).sift(documents, tally)
    assert whole == parts and list(whole) == list(range(0, 300, 7)) and tally["rows_excluded"] == len(whole)


def test_signs_and_words_are_told_apart() -> None:
    found = Units(["用iPhone 15拍的，好看！", "カメラは 한국어 ไทยไทย e\u0301té x\ufe0f"])
    assert [found.text(place, 1) for place in range(len(found.hashes_U))] == [
        *"用", "iphone", "15", *"拍的好看", *"カメラは", "한국어", "ไทยไทย", "été", "x",
    ]  # fmt: skip


FILLER = "The committee met in the old town hall and spoke about roads, bridges and schools for three long hours"


def write_data(place: Path) -> dict[str, Any]:
    """A corpus that holds some of the messages, under other signs and within longer documents; and the recipe's steps."""
    messages = [{"text": f"{ENGLISH}, {number}", "label": str(number % 2)} for number in range(30)]
    messages += [{"text": f"第{number}条：{CHINESE}", "label": str(number % 2)} for number in range(30)]
    messages += [{"text": f"ok {number}", "label": str(number % 2)} for number in range(60)]
    (place / "messages.jsonl").write_text("\n".join(json.dumps(row) for row in messages))
    corpus = [f"{FILLER}, {number}." for number in range(40)] + [
        f"第{number}天，委员会讨论了道路和学校的问题。" for number in range(40)
    ]
    corpus += [f"Then he wrote: “{ENGLISH.upper()}”.", f"信上写着：{CHINESE.replace('，', ' ')}"]
    corpus += [row["text"] for row in messages]
    (place / "corpus.txt").write_text("\n".join(corpus))
    return {
        "corpus": {
            "stage": "prepare", "source": str(place / "corpus.txt"), "tokenizer": {"train": "characters", "vocab_size": 400},
            "inputs": {"exclude": ["messages"]},
        },
        "messages": {
            "stage": "prepare", "source": str(place / "messages.jsonl"), "task": {"kind": "classification"},
            "split": {"test": 0.2},
        },
    }  # fmt: skip


def test_a_corpus_without_what_is_tested(ray_driver: Cluster, tmp_path: Path) -> None:
    """Run: neither the texts themselves nor long parts of them are in what is pretrained on, and the rest is."""
    steps, storage = write_data(tmp_path), str(tmp_path / "runs")
    made = parse_recipe({"name": "tiny", "steps": steps})
    with pytest.raises(BadInput, match=r"steps.corpus.inputs = \['messages'\]: this step has not been run. Run it first"):
        execute(made, "corpus", storage)
    messages = execute(made, "messages", storage)
    held = [text for name in ("test", "validation") for text in read_examples(messages, name)["text"].to_pylist()]
    brief = [text for text in held if text.startswith("ok")]
    assert any(ENGLISH in text for text in held) and any(CHINESE in text for text in held) and brief
    corpus = execute(made, "corpus", storage)
    metrics, read = corpus.manifest.metrics, text_of(corpus)
    # All of the long ones share their n-grams, as do both that quote them; of the brief ones those that are held out.
    assert metrics["rows_excluded"] == 62 + len(brief)
    assert metrics["rows_read"] - metrics["rows_excluded"] == 80 + 60 - len(brief)
    assert "committee" in read and "委员会" in read and "oxford" not in read.lower() and "老地方" not in read
    told = corpus.manifest.details["sifted_rows"]
    assert len({one["detail"] for one in told}) > 3, "of one reason two rows are named"
    assert (told[0]["row"], told[0]["line"]) == (81, 81)
    assert told[0]["detail"].endswith("with what messages holds out")
    assert "what messages holds out" in str(left_out({"corpus": corpus}))
    assert {parent.uri for parent in corpus.manifest.parents["exclude"]} == {messages.uri}


def test_examples_without_what_another_step_tests(ray_driver: Cluster, tmp_path: Path) -> None:
    steps, storage = write_data(tmp_path), str(tmp_path / "runs")
    rows = [
        {"text": row, "label": str(number % 2)} for number, row in enumerate((tmp_path / "corpus.txt").read_text().split("\n"))
    ]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    steps["more"] = {**steps["messages"], "source": str(tmp_path / "more.jsonl"), "inputs": {"exclude": "messages"}}
    made = parse_recipe({"name": "tiny", "steps": steps})
    messages, more = execute(made, "messages", storage), execute(made, "more", storage)
    held = {row for name in ("test", "validation") for row in read_examples(messages, name)["key"].to_pylist()}
    kept = {row for name in ("test", "validation", "train") for row in read_examples(more, name)["key"].to_pylist()}
    assert more.manifest.metrics["rows_excluded"] >= 62 and len(kept) > 80 and not held & kept


def recipe(**steps: Any) -> Recipe:
    """Of these steps, and messages that hold a tenth out."""
    rows = {"stage": "prepare", "source": "rows.csv", "task": {"kind": "classification"}}
    return parse_recipe({"name": "tiny", "steps": {"messages": rows, **steps}})


CORPUS: dict[str, Any] = {"stage": "prepare", "source": "corpus.txt", "tokenizer": {"train": "bpe"}}
LABELLED: dict[str, Any] = {"stage": "prepare", "source": "rows.csv", "task": {}}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"corpus": {**CORPUS, "inputs": {"exclude": "mesages"}}}, "no step has this name. Did you mean messages"),
        ({"corpus": {**CORPUS, "inputs": {"exclude": "other"}}, "other": CORPUS}, "makes tokens, this input takes examples"),
        ({"one": {**LABELLED, "inputs": {"exclude": "one"}}}, "'one → one': these steps wait for each other"),
        (
            {"one": {**LABELLED, "inputs": {"exclude": "two"}}, "two": {**LABELLED, "inputs": {"exclude": "one"}}},
            "these steps wait for each other",
        ),
        ({"corpus": {**CORPUS, "exclude": ["messages"]}}, "no such key. It is an input: write inputs: {exclude: …}."),
        ({"corpus": {**CORPUS, "inputs": {"excluded": "messages"}}}, "prepare has no such input. Did you mean exclude"),
    ],
)
def test_what_cannot_be_excluded_is_refused(steps: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        recipe(**steps)


def test_a_step_that_holds_nothing_out_is_not_excluded() -> None:
    whole = {**LABELLED, "split": {"validation": 0}}
    made = recipe(whole=whole, corpus={**CORPUS, "inputs": {"exclude": ["messages", "whole"]}})
    (problem,) = parent_problems(made, ["corpus"])
    assert problem.path == "steps.corpus.inputs.exclude" and problem.value == "whole"
    by_column = recipe(whole={**LABELLED, "split": {"by": "part"}}, corpus={**CORPUS, "inputs": {"exclude": "whole"}})
    assert not parent_problems(by_column, ["corpus"])


def test_the_plan_and_the_command_line_know_what_comes_first(tmp_path: Path) -> None:
    steps = write_data(tmp_path)
    made = parse_recipe({"name": "tiny", "steps": steps})
    assert list(made.steps) == ["messages", "corpus"]
    places, _ = look(made, str(tmp_path / "runs"))
    assert places["corpus"].uri is None and "messages" in places["corpus"].reason
    (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "tiny", "steps": steps}))
    command = [sys.executable, "-m", "jobs.prepare", str(tmp_path / "recipe.yaml"), "--step", "corpus"]
    place = ["--storage", str(tmp_path / "runs")]
    done = subprocess.run(
        [*command, *place], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local"}
    )
    assert done.returncode == 2 and "Run it first" in done.stderr and "--step messages" in done.stderr
