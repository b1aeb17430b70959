"""What teacher and candidates are worth above the floor: paired intervals, and the sentence that follows from them.

pytest tests/jobs/test_floor_verdict.py
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cluster.store.artifact import Artifact, Kind
from cluster.store.registry import verdicts
from jobs.core.metric import Metric
from jobs.core.stage import Context, Inputs, Outcome, Refused
from jobs.judging.floor_verdict import against_floor, what_it_is
from jobs.judging.quality import Candidate, Rows, judge_quality
from jobs.judging.results import AGAINST_FLOOR
from jobs.select import SelectConfig, run
from jobs.tasks import learning_of
from serve.engines.engine import Engine
from serve.tasks import task_of
from serve.tasks.protocol import Item, Task
from tests.jobs.stars import NAME, installed
from tests.jobs.test_report import Run, with_floor
from tests.jobs.tiny import classification, publish_directory

ACCURACY = Metric("accuracy", highest=1.0)


class Answering:
    """An engine that answers each text, a number, with the output of that place in a list."""

    fitted: dict[str, float] = {}  # noqa: RUF012  nothing

    def __init__(self, task: Any, outputs_NC: np.ndarray) -> None:
        self.task, self.outputs_NC = task, outputs_NC

    def outputs(self, items: list[Item]) -> np.ndarray:
        return self.outputs_NC[[int(item.values[0]) for item in items]]

    settled = outputs


def told(task: Any, metric: Metric, truth_N: np.ndarray, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the report says of these models, the teacher first and the floor last; what is in production is named so."""
    rows = Rows([Item((str(number),)) for number in range(len(truth_N))], truth_N)
    made = [
        Candidate(name, cast(Artifact, SimpleNamespace()), "torch", cast(Engine, Answering(task, given)), 9)
        for name, given in outputs.items()
    ]
    for one in made:
        judge_quality(one, rows, made[0], metric, 300)
    production = next((one for one in made if one.name == "production"), None)
    others = [one for one in made[:-1] if one is not production]
    return against_floor(others, made[-1], production, metric, len(truth_N), "a linear model")


def labels(rows: int, **wrong: Any) -> dict[str, Any]:
    """Of classifiers that are wrong at these places, `floor` being the last."""
    truth_N = np.arange(rows) % 2
    outputs = {}
    for name, places in wrong.items():
        predicted_N = truth_N.copy()
        predicted_N[list(places)] ^= 1
        outputs[name] = np.eye(2)[predicted_N] * 9
    return told(classification(["ham", "spam"]), ACCURACY, truth_N, outputs)


def test_a_teacher_above_the_floor() -> None:
    found = labels(1000, teacher=range(40), small=range(50), floor=range(81))
    assert found["outcome"] == "teacher above"
    said = re.fullmatch(r"the teacher is 4\.1 points above a linear model \(interval (\d\.\d) to (\d\.\d)\)", found["verdict"])
    low, high = found["teacher"]["gain_interval"]
    assert said is not None and said.groups() == (f"{100 * low:.1f}", f"{100 * high:.1f}")
    assert 0.02 < low < found["teacher"]["gain"] == pytest.approx(0.041) and 0.041 < high < 0.06
    assert (found["teacher"]["candidate"], found["best"]["candidate"], found["candidate"]) == ("teacher", "small", "floor")
    assert found["best"]["gain"] == pytest.approx(0.031)
    json.dumps(found)


def test_the_interval_is_that_of_the_paired_difference() -> None:
    """Of 300 rows the floor is wrong where the teacher is, and in seven more: each score's own interval holds the other's."""
    found = labels(300, teacher=range(60), floor=range(67))
    assert found["outcome"] == "teacher above" and found["teacher"]["gain_interval"][0] > 0.005
    assert labels(300, teacher=range(60), floor=range(63))["outcome"] != "teacher above", "three rows are luck"
    # As many errors in other rows, and nothing is sure.
    assert labels(300, teacher=range(60), floor=range(60, 127))["outcome"] == "cannot be told apart"


def test_a_floor_that_does_as_well() -> None:
    better = labels(1000, teacher=range(35), small=range(36), floor=range(20, 35))
    assert better["outcome"] == "floor as good" and better["teacher"]["gain_interval"][1] < 0
    figures = r"\(0\.985, 0\.97\d–0\.99\d, against 0\.965 of the teacher\)"
    assert re.fullmatch(rf"a linear model does as well {figures}: distilling brings nothing here", better["verdict"])
    alike = labels(1000, teacher=range(35), floor=range(2, 38))
    assert alike["outcome"] == "floor as good" and alike["teacher"]["gain_interval"][1] > 0, "it keeps 98 % of the score"
    assert "best" not in alike


def test_few_rows_tell_nothing_apart() -> None:
    few = labels(60, teacher=[0, 1, 2], floor=[0, 3, 4, 5])
    assert few["outcome"] == "cannot be told apart"
    said, figures = "the teacher and a linear model cannot be told apart on so few test rows", r"0\.950 against 0\.933"
    assert re.fullmatch(rf"{said} \(60: {figures}, a gain of -\d\.\d to \d\.\d\)", few["verdict"])
    # Where none is wrong, an error that one answer in 50 has might still not be among so few rows.
    assert [labels(rows, teacher=[], floor=[])["outcome"] for rows in (149, 150)] == ["cannot be told apart", "floor as good"]


def test_the_best_of_the_others_is_named_where_it_says_something_else() -> None:
    assert "is not" not in labels(1000, teacher=range(40), small=range(50), floor=range(81))["verdict"]
    lost = labels(1000, teacher=range(40), small=range(82), worse=range(200), floor=range(81))
    assert lost["verdict"].endswith("); small, the best of the others, is not clearly above it")
    gained = labels(1000, teacher=range(60), small=range(30), floor=range(61))
    assert gained["outcome"] == "floor as good"
    but = r"of the teacher\), but small is 3\.1 points above a linear model \(interval \d\.\d to \d\.\d\)$"
    assert re.search(but, gained["verdict"]) and "nothing" not in gained["verdict"]


def test_what_is_in_production_is_no_candidate_and_has_its_figures() -> None:
    found = labels(1000, teacher=range(40), small=range(50), production=range(10), floor=range(81))
    assert found["best"]["candidate"] == "small" and found["production"]["gain"] == pytest.approx(0.071)


@pytest.mark.parametrize(
    ("stage", "width", "said"),
    [("floor", 2, "a linear model"), ("floor", None, "the cheapest model"), ("distill", 2, "tiny")],
)
def test_what_a_floor_is_in_words(stage: str, width: int | None, said: str) -> None:
    task = classification(["ham", "spam"]) if width else Task(kind="any")
    artifact = cast(Artifact, SimpleNamespace(manifest=SimpleNamespace(stage=stage)))
    assert what_it_is(Candidate("tiny", artifact, "torch", cast(Engine, Answering(task, np.zeros((0, 2)))), 9)) == said


def test_select_may_choose_the_floor_and_says_what_all_else_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = with_floor(Run(tmp_path), 0.962).report
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "report.json").write_text(json.dumps(report))
    judged = publish_directory(tmp_path / "judged", tmp_path / "made", Kind.REPORT)

    def chosen(**budget: Any) -> Outcome:
        context = Context(str(tmp_path), "spam", "winner", str(tmp_path / "out"), "1", directory=tmp_path)
        return run(SelectConfig(**budget), Inputs(report=[judged]), context)

    assert chosen().details["winner"] == "floor", "it keeps 97.9 %, and is the fastest"
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["row"]["floor"] is True and verdict[AGAINST_FLOOR] == report["floor"]["verdict"]
    assert capsys.readouterr().out.count(report["floor"]["verdict"]) == 1
    assert chosen(minimum_kept=0.98).details["winner"] == "small:int8", "the budget is the same for all"
    with pytest.raises(Refused, match=r"floor: keeps 97\.9% of the teacher's score, 190\.0% are asked"):
        chosen(minimum_kept=1.9)
    assert verdicts(str(tmp_path), "spam/winner")[-1][AGAINST_FLOOR] == report["floor"]["verdict"]


@pytest.fixture
def stars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("installed")):
        yield


@pytest.mark.usefixtures("stars")
@pytest.mark.parametrize(
    ("floor", "outcome", "said"),
    [
        (0.8, "teacher above",
         r"the teacher is better than a linear model by 0\.3\d* of mean_error \(interval 0\.\d+ to 0\.\d+\)"),
        (0.5, "floor as good",
         r"a linear model does as well \(mean_error 0\.[45]\d+, 0\.\d+–0\.\d+, against 0\.[45]\d+ of the teacher\): .*"),
        (0.3, "floor as good", r"a linear model does as well .*"),
    ],
)  # fmt: skip
def test_where_less_is_better_and_nothing_is_in_percent(floor: float, outcome: str, said: str) -> None:
    generator = np.random.default_rng(0)
    truth_N = np.arange(2000) % 5 + 1.0
    errors_N = generator.exponential(0.5, 2000)
    outputs = {"teacher": truth_N + errors_N, "floor": truth_N + errors_N * floor / 0.5}
    metric = learning_of(NAME).metrics[0]
    found = told(task_of({"kind": NAME}), metric, truth_N, {name: given[:, None] for name, given in outputs.items()})
    assert found["outcome"] == outcome and re.fullmatch(said, found["verdict"]), found["verdict"]
    assert np.sign(found["teacher"]["gain"]) == np.sign(floor - 0.5)
