"""Searches in the report page: the winner first, failures with their reason, pbt's values over time. No cluster."""

import re
from pathlib import Path
from typing import Any

from cluster.store.artifact import Kind
from jobs.report.sections import searches
from jobs.search.trial_results import schedule
from tests.jobs.tiny import publish_directory

RATE = "optimizer.learning_rate"


def page(directory: Path, **details: Any) -> str:
    (directory / "draft").mkdir()
    (directory / "draft" / "content.txt").write_text("x")
    return str(searches({"student": publish_directory(directory / "draft", directory / "out", Kind.MODEL, details=details)}))


def cells(html: str, name: str) -> list[str]:
    """The table row that begins with a name."""
    row = next(row for row in re.findall(r"<tr.*?</tr>", html) if f">{name}</th>" in row)
    return re.findall(r"<td>(.*?)</td>", row)


def trial(name: str, rate: float, score: float | None, status: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "values": {RATE: rate}, "score": score, "status": status, "reports": 2, "seconds": 4.0, **more}


def test_the_winner_stands_first_and_failures_say_why(tmp_path: Path) -> None:
    rows = [
        trial("a", 1e-2, None, "failed", error="FloatingPointError: the loss is <nan>"),
        trial("b", 1e-3, 0.99, "stopped"),
        trial("c", 1e-4, 0.97, "finished"),
    ]
    html = page(tmp_path, trials=rows, best={RATE: 1e-4}, best_trial="c", mode="max")
    names = re.findall(r'<th scope="row">(\w)</th>', html)
    assert names == ["c", "b", "a"], "a trial that was stopped is not the best, whatever it had reached"
    assert re.search(r'<tr class="best"><th scope="row">c<', html)
    assert "a failed: FloatingPointError: the loss is &lt;nan&gt;" in html
    assert cells(html, "a") == ["–", "0.01", "failed", "2", "4.0 s"]
    assert html.count("<svg") == 1


def test_values_over_time(tmp_path: Path) -> None:
    path = [
        {"evaluation": 1, "trial": "a", "values": {RATE: 1e-3}, "score": 0.5},
        {"evaluation": 2, "trial": "a", "values": {RATE: 1e-3}, "score": 0.6},
        {"evaluation": 3, "trial": "b", "values": {RATE: 1.2e-3}, "score": 0.8},
    ]
    course = schedule(path)
    assert course == [
        {"trial": "a", "values": {RATE: 1e-3}, "from": 0, "until": 2, "score": 0.6},
        {"trial": "b", "values": {RATE: 1.2e-3}, "from": 2, "until": 3, "score": 0.8},
    ]
    rows = [
        trial("a", 1e-3, 0.7, "finished", schedule=course[:1]),
        trial("b", 1.2e-3, 0.8, "finished", schedule=course),
    ]
    html = page(tmp_path, trials=rows, best={RATE: 1.2e-3}, best_trial="b", mode="max", schedule=course)
    assert cells(html, "b")[1] == "0.001 → 0.0012" and cells(html, "a")[1] == "0.001"
    assert cells(html, "0–2") == ["a", "0.600", "0.001"] and cells(html, "2–3") == ["b", "0.800", "0.0012"]


def test_other_searches_show_no_course(tmp_path: Path) -> None:
    html = page(tmp_path, trials=[trial("c", 1e-4, 0.97, "finished")], best_trial="c", mode="max")
    assert "under these values" not in html
