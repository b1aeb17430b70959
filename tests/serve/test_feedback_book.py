"""What people say is kept: last words count once, files hold just them, the next process goes on, what is old is forgotten."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from cluster.store import storage
from serve.models.model import ServedModel
from serve.settings import FeedbackSettings
from serve.tasks.classification import Classification
from serve.tasks.multi_label import MultiLabel
from serve.watch import feedback, line_parts
from serve.watch.feedback import FeedbackBook, Question, Said, wilson
from serve.watch.line_parts import LineParts, LinePlace, write_all
from tests.serve.faces import asked, face_of, local_model

OLD = ServedModel(name="spam", fingerprint="a" * 64, variant="int8")
NEW = ServedModel(name="spam", fingerprint="b" * 64, variant="int8")


def question(number: int | str, model: ServedModel = OLD, texts: int = 1, at: float | None = None) -> Question:
    inputs = [{"text": f"text {number} \u2028 {place}"} for place in range(texts)]
    answers = [{"label": "spam"}] * texts
    at = time.time() if at is None else at
    return Question(id=str(number), time=at, key=None, asked="spam", model=model, inputs=inputs, answers=answers)


def said(one: Question, label: str, index: int = 0) -> Said:
    row = {**one.inputs[index], "label": label}
    goodness = float(one.answers[index]["label"] == label)
    return Said(id=one.id, index=index, model=one.model, row=row, answer=one.answers[index], goodness=goodness)


def rows(place: Path) -> list[dict[str, Any]]:
    files = sorted((place / "rows").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().removesuffix("\n").split("\n")]


def labels(place: Path) -> dict[str, str]:
    told = rows(place)
    found = {f"{row['feedback']['request_id']}.{row['feedback']['index']}": row["label"] for row in told}
    assert len(found) == len(told), "each item has one row"
    return found


def test_the_last_word_counts_once_in_the_rows_and_in_the_score(tmp_path: Path) -> None:
    async def run() -> None:
        book = FeedbackBook(FeedbackSettings(place=str(tmp_path)))
        one, two = question(1), question(2, texts=2)
        await book.note([one, two])
        assert not await book.keep(said(one, "ham"))
        assert await book.keep(said(one, "spam"))
        assert not await book.keep(said(two, "ham", 1))
        assert labels(tmp_path) == {"1.0": "spam", "2.1": "ham"}
        (score,) = await book.scores()
        assert (score.model, score.feedbacks, score.right) == (OLD, 2, 0.5)
        await asyncio.gather(*[book.keep(said(two, label, 0)) for label in ("ham", "spam") * 20])
        assert labels(tmp_path) == {"1.0": "spam", "2.1": "ham", "2.0": "spam"}
        assert (await book.scores())[0].feedbacks == 3

    asyncio.run(run())
    (row,) = [row for row in rows(tmp_path) if row["feedback"]["request_id"] == "1"]
    assert set(row) == {"text", "label", "feedback"} and row["text"] == "text 1 \u2028 0"
    about = row["feedback"]
    assert about["model"] == OLD.model_dump() and about["answer"] == {"label": "spam"} and about["goodness"] == 1.0


def test_the_next_process_knows_what_the_one_before_was_asked_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_parts, "MOST_LINES", 3)
    monkeypatch.setattr(feedback, "LOOKED_UP_SECONDS", 0.0)
    kept = FeedbackSettings(place=str(tmp_path))

    async def run() -> None:
        before = FeedbackBook(kept)
        asked = [question(number) for number in range(10)]
        await before.note(asked[:8])
        for one in asked[:7]:
            await before.keep(said(one, "ham"))
        await before.flush()  # and is killed: the last words were kept before anybody was told so
        after = FeedbackBook(kept)
        assert await after.find("3") == asked[3]
        assert await after.find("9") is None
        assert await after.keep(said(asked[3], "spam")), "what was said before is known"
        await after.note([question("new", NEW)])
        await after.keep(said(question("new", NEW), "spam"))
        # One that goes on for a while beside the next, as when a new version is deployed.
        await before.note(asked[9:])
        before.close()
        assert await after.find("9") == asked[9], "what another one has written is looked for"
        told = {one.model.fingerprint[0]: (one.feedbacks, one.right) for one in await after.scores()}
        assert told == {"a": (7, pytest.approx(1 / 7)), "b": (1, 1.0)}

    asyncio.run(run())
    assert labels(tmp_path) == {f"{number}.0": "spam" if number == 3 else "ham" for number in range(7)} | {"new.0": "spam"}
    assert len(list((tmp_path / "rows").iterdir())) == 4


def test_what_is_old_or_too_much_is_forgotten_and_its_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_parts, "MOST_LINES", 100)
    kept = FeedbackSettings(place=str(tmp_path), hours=1, texts=256)

    async def run() -> None:
        book = FeedbackBook(kept)
        await book.note([question("old", at=time.time() - 3700), question("young", at=time.time() - 3500)])
        assert await book.find("old") is None and await book.find("young") is not None
        await book.note([question("again")])
        await book.note([question("again")])
        for number in range(0, 400, 100):
            await book.note([question(one) for one in range(number, number + 100)])
        await book.flush()
        assert await book.find("young") is None and await book.find("143") is None
        assert await book.find("144") is not None and await book.find("399") is not None

    asyncio.run(run())
    lines = [line for file in (tmp_path / "asked").iterdir() for line in file.read_text().removesuffix("\n").split("\n")]
    assert len(lines) <= 256 + 2 * 100, "no more is on the disk than what is known, but for the rest of a file"
    assert not any('"old"' in line for line in lines)

    async def much_later() -> None:
        FeedbackBook(kept.model_copy(update={"hours": 1e-9})).close()

    asyncio.run(much_later())
    assert not list((tmp_path / "asked").iterdir())


def test_what_cannot_be_written_is_told_and_written_with_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        book = FeedbackBook(FeedbackSettings(place=str(tmp_path)))
        one, two = question(1), question(2)
        await book.note([one, two])
        (tmp_path / "rows").write_text("in the way")
        with pytest.raises(storage.StorageError):
            await book.keep(said(one, "ham"))
        (tmp_path / "rows").unlink()
        await book.keep(said(two, "ham"))

    asyncio.run(run())
    assert labels(tmp_path) == {"1.0": "ham", "2.0": "ham"}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25))
def test_files_hold_the_lines_whatever_is_added_and_replaced_between_writes(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[int, bool]]
) -> None:
    directory = tmp_path_factory.mktemp("parts")
    parts = LineParts(str(directory))
    places: list[LinePlace] = []
    expected: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_parts, "MOST_LINES", 2)
        for number, (which, writes) in enumerate(acts):
            line = f'"{number} \u2028"'
            if which < len(places):
                parts.replace(places[which], line)
                expected[which] = line
            else:
                places.append(parts.add(line))
                expected.append(line)
            if writes:
                write_all(parts.changed())
            elif which == 6:
                parts.unwritten(parts.changed())
        write_all(parts.changed())
    reader = LineParts(str(directory))
    assert [line for name in reader.take() for line in reader.read(name)] == expected


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (7, 10), (93, 100), (500, 1000)])
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_kind_says_what_is_right_and_how_good_an_answer_is_by_it() -> None:
    one = Classification(labels=("ham", "spam", "其他"))
    assert one.right("其他") == {"label": "其他"} and one.choices == one.labels
    assert (one.goodness({"label": "ham"}, {"label": "ham"}), one.goodness({"label": "ham"}, {"label": "spam"})) == (1.0, 0.0)
    wrong: Any
    for wrong in ("Spam", None, 1, ["ham"]):
        with pytest.raises(ValueError, match="ham, spam, 其他"):
            one.right(wrong)
    several = MultiLabel(labels=("anger", "joy", "love"))
    assert several.right(["love", "anger", "love"]) == {"labels": ["anger", "love"]} and several.right([]) == {"labels": []}
    assert several.goodness({"labels": ["joy", "love"]}, {"labels": ["love"]}) == pytest.approx(2 / 3)
    assert (
        several.goodness({"labels": []}, {"labels": []}) == 1.0 and several.goodness({"labels": []}, {"labels": ["joy"]}) == 0
    )
    for wrong in ("joy", ["fear"], None, [["joy"]]):
        with pytest.raises(ValueError, match="anger, joy, love"):
            several.right(wrong)


def test_a_request_is_found_by_whatever_id_its_client_gave_and_only_where_it_was_answered(
    tmp_path: Path, model_directory: Path
) -> None:
    model = local_model(model_directory, "tiny", "onnx")

    async def run() -> None:
        face = face_of({"tiny": model}, model, feedback=FeedbackSettings(place=str(tmp_path)))
        for named in ("order 17", "订单", "x" * 300):
            assert (await asked(face, "/v1/predict", {"inputs": "a prize"}, x_request_id=named))[0] == 200
            status, told = await asked(face, "/v1/feedback", {"request_id": named, "right": "spam"})
            assert (status, told["right"]) == (200, {"label": "spam"})
        assert (await asked(face, "/v1/predict", {"inputs": ""}, x_request_id="refused"))[0] == 422
        assert (await asked(face, "/v1/feedback", {"request_id": "refused", "right": "spam"}))[0] == 404
        _, scored = await asked(face, "/v1/feedback")
        assert [one["feedbacks"] for one in scored["scores"]] == [3]

    asyncio.run(run())
    assert len(rows(tmp_path)) == 3
