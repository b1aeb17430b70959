"""The report: table, Pareto front and page from real artifacts in a temporary directory. `pytest tests/jobs/test_report.py`"""

import json
import math
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cluster.store.artifact import Artifact, ArtifactError, Kind, publish
from jobs.core.metric import Metric
from jobs.judging.pareto import front_of, pareto_front
from jobs.report import cascade_section as cascade
from jobs.report.lineage import arrange
from jobs.report.page import write_page
from jobs.report.plots import quality_plot
from jobs.report.sections import left_out, steadiness
from jobs.report.tables import comparison_table, display_width
from tests.jobs.tiny import publish_directory

SVG = "{http://www.w3.org/2000/svg}"
VOID = ("meta", "br", "col", "hr")
URL = "http://127.0.0.1:8000/v1/predict"


def candidate(name: str, score: float, p50: float, size: float, parameters: int, right: int) -> dict[str, Any]:
    """A row of the report; the teacher's figures are 0.983, 27.4 ms and 91.2 MB."""
    half = 1.96 * math.sqrt(score * (1 - score) / 725)
    return {
        "candidate": name, "step": name.split(":")[0], "variant": name.split(":")[-1], "uri": f"/runs/spam/{name}",
        "score": score, "interval": [score - half, min(1, score + 0.8 * half)], "accuracy": score + 0.008, "macro_f1": score,
        "latency_p50_ms": p50, "latency_p95_ms": p50 * 1.22, "texts_per_second": 4100 / p50, "bytes": int(size * 1e6),
        "parameters": parameters, "agreement": score + 0.004, "kept": score / 0.983, "speedup": 27.4 / p50,
        "size_ratio": 91.2 / size, "confusion": [[626 - right, 2 + right], [9 + right, 88 - right]],
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    return [
        candidate("teacher:fp32", 0.983, 27.4, 91.2, 22_713_216, 0),
        candidate("teacher:int8", 0.981, 12.1, 23.4, 22_713_216, 0),
        candidate("student:fp32", 0.974, 8.3, 21.6, 5_310_000, 2),
        candidate("student:int8", 0.972, 4.1, 6.9, 5_310_000, 2),
        candidate("small:fp32", 0.970, 6.6, 17.9, 4_420_000, 3),
        candidate("small:int8", 0.968, 3.0, 5.0, 4_420_000, 3),
        candidate("control:int8", 0.941, 3.1, 5.0, 4_420_000, 9),
    ]


def curve(steps: int, start: float, end: float, best: float | None) -> list[dict[str, float]]:
    noise, points = random.Random(steps), []
    for step in range(10, steps + 1, 10):
        share = step / steps
        loss = end + (start - end) * math.exp(-5 * share) * noise.uniform(0.88, 1.12)
        points.append({"step": step, "loss": loss, "learning_rate": 1e-4 * (1 - share)})
        if best is not None and step % (steps // 5) == 0:
            points[-1]["macro_f1"] = best - 0.09 * math.exp(-4 * share)
    return points


def trials(count: int) -> list[dict[str, Any]]:
    noise, made = random.Random(7), []
    for number in range(count):
        rate, temperature = 10 ** noise.uniform(-5, -3), noise.uniform(1, 8)
        score = 0.974 - 0.02 * (math.log10(rate) + 3.8) ** 2 - 0.0006 * (temperature - 4) ** 2 - noise.random() * 0.004
        values = {"temperature": temperature, "optimizer.learning_rate": rate, "layers": noise.choice([2, 3])}
        fate = (
            {"status": "stopped", "reports": 1, "seconds": 4.2}
            if score < 0.955
            else {"status": "finished", "reports": 3, "seconds": 12.1}
        )
        made.append({"name": f"trial_{number:02d}", "values": values, "score": score, **fate})
    return made


class Run:
    """A recipe's artifacts, published below a directory."""

    def __init__(self, root: Path, labels: tuple[str, str] = ("ham", "spam"), winner: str | None = "small:int8") -> None:
        self.root, self.labels, self.artifacts = root, labels, dict[str, Artifact]()
        self.report: dict[str, Any] = {
            "metric": "macro_f1", "labels": list(labels), "split": "test", "examples": 725, "rows": rows(),
            "conditions": {"threads": 1, "batch_size": 32, "cpu": "AMD EPYC 9B14"},
        }  # fmt: skip
        self.choice: dict[str, Any] = {
            "winner": winner,
            "budget": {"minimum_kept": 0.97, "maximum_latency_ms": 5},
            "verdicts": [
                {"candidate": "small:int8", "qualifies": True, "reasons": ["the smallest of 2 that qualify"]},
                {"candidate": "control:int8", "qualifies": False, "reasons": ["keeps 95.7%, asked for 97%"]},
            ],
        }

    def add(self, step: str, stage: str, kind: Kind, seconds: float, parents: str = "", **details: Any) -> None:
        draft = self.root / "draft" / step
        draft.mkdir(parents=True)
        if stage == "evaluate":
            (draft / "report.json").write_text(json.dumps(self.report))
        (draft / "content.txt").write_text(step)
        record = {
            "kind": kind, "step": step, "stage": stage, "stage_version": 1, "seconds": seconds, "details": details,
            "config": {"stage": stage, "seed": 0, "optimizer": {"learning_rate": 1e-4, "warmup": 0.06}},
            "parents": {"inputs": [self.artifacts[name].as_parent() for name in parents.split()]},
            "metrics": {"macro_f1": 0.968} if kind == Kind.MODEL else {}, "created": datetime(2025, 3, 2, 9, 30, tzinfo=UTC),
            "versions": {"code": "1a2b3c4", "ray": "2.60.0", "torch": "2.13.0"},
            "hardware": {"cpu": "AMD EPYC 9B14", "cores": 2, "memory_gb": 24, "gpus": []},
        }  # fmt: skip
        self.artifacts[step] = publish(draft, str(self.root / "runs" / f"{step}-0a1b2c3d"), record)

    def whole(self) -> "Run":
        """Every step of the road, searches and deployment included."""
        self.add("corpus", "prepare", Kind.TOKENS, 14.2)
        self.add("messages", "prepare", Kind.EXAMPLES, 3.1)
        self.add("base", "pretrain", Kind.MODEL, 412, "corpus", curve=curve(1200, 8.6, 3.9, None))
        self.add("teacher", "finetune", Kind.MODEL, 187, "messages", curve=curve(400, 0.68, 0.03, 0.983))
        self.add("soft", "predict", Kind.PREDICTIONS, 21, "teacher messages")
        searched = {"curve": curve(900, 1.9, 0.12, 0.974), "trials": trials(14)}
        self.add("student", "distill", Kind.MODEL, 264, "messages soft base", **searched)
        self.add("small", "compress", Kind.MODEL, 61, "student messages soft", curve=curve(200, 0.4, 0.14, 0.97))
        self.add("control", "finetune", Kind.MODEL, 48, "base messages", curve=curve(600, 0.7, 0.08, 0.941))
        self.judged("teacher student small control messages")
        answers = [
            {
                "text": "WINNER!! Claim your prize by calling 09061701461 now",
                "label": "spam",
                "probability": 0.998,
                "expected": "spam",
            },
            {"text": "Are we still on for dinner at 7?", "label": "ham", "probability": 0.996, "expected": "ham"},
            {"text": "恭喜您获得大奖，请立即回复领取", "label": "ham", "probability": 0.61, "expected": "spam"},
        ]
        self.add("live", "deploy", Kind.REPORT, 18, "choice", url=URL, answers=answers)
        return self

    def judged(self, parents: str) -> "Run":
        self.add("judged", "evaluate", Kind.REPORT, 74, parents)
        self.add("choice", "select", Kind.MODEL, 0.4, "judged small" if "small" in parents else "judged", **self.choice)
        return self


class Page(HTMLParser):
    """What a browser would find: balanced elements, links, headings, the rows of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: dict[str, list[str]] = {"h1": [], "h2": [], "h3": []}
        self.heads: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [value or "" for key, value in attributes if key in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value or "" for key, value in attributes if key == "id"]
        assert not [key for key, _ in attributes if key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.headings:
            self.headings[tag].append("")
        if tag == "th":
            self.heads.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        for heading in set(self.open) & set(self.headings):
            self.headings[heading][-1] += data
        if "th" in self.open:
            self.heads[-1] += data

    def drawings(self) -> Iterator[ElementTree.Element]:
        """Every inline SVG, through an XML parser."""
        for drawing in re.findall(r"<svg.*?</svg>", self.source, flags=re.DOTALL):
            if "xmlns:xlink" not in drawing:
                drawing = drawing.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
            yield ElementTree.fromstring(drawing)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = tmp_path_factory.mktemp("report")
    write_page("spam", Run(root).whole().artifacts, root / "made" / "report.html")
    return Page(root / "made" / "report.html")


def test_headline_names_the_winner_and_its_three_figures(page: Page) -> None:
    assert page.headings["h1"] == [
        "small:int8 keeps 98.5% of the teacher’s macro F1, answers 9.1 times faster and is 18.2 times smaller"
    ]


def test_page_holds_every_section_row_and_step(page: Page) -> None:
    assert page.headings["h2"] == [
        "Candidates", "Quality against latency", "The front", "Budget", "Where they err", "Questions and answers",
        "Learning curves", "Searches", "Lineage", "Hardware",
    ]  # fmt: skip
    roles = {"teacher:fp32": "teacher", "small:int8": "winner"}
    heads = [head for head in page.heads if ":" in head]
    assert heads[:7] == [row["candidate"] + roles.get(row["candidate"], "") for row in rows()]
    assert page.headings["h3"] == ["student"]
    assert all(f"trial_{number:02d}" in page.heads for number in range(14))
    assert URL in page.text and "✗ expected spam" in page.text and "恭喜您获得大奖" in page.text
    assert "keeps 95.7%, asked for 97%" in page.text


def test_page_needs_nothing_from_outside(page: Page) -> None:
    assert [link for link in page.links if not link.startswith("#")] == []
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.names)
    assert re.findall(r"@import|url\((?!#)", page.source) == []
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_drawings_are_well_formed_themed_and_keep_text_as_text(page: Page) -> None:
    drawings = list(page.drawings())
    # Two widths of the scatter and of the lineage, 5 curves, 3 searched values, 2 confusion matrices.
    assert len(drawings) == 2 + 2 + 5 + 3 + 2
    scatter = next(drawing for drawing in drawings if "against latency" in drawing.attrib["aria-label"])
    texts = ["".join(text.itertext()) for text in scatter.iter(f"{SVG}text")]
    assert {row["candidate"] for row in rows()} <= {text.split(" · ")[0] for text in texts}
    assert "budget: keep 97% of the teacher" in texts
    assert "var(--accent, #0b66b2)" in ElementTree.tostring(scatter, encoding="unicode")


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    artifacts = Run(tmp_path).judged("").artifacts
    write_page("spam", artifacts, tmp_path / "one.html")
    write_page("spam", artifacts, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_parts_that_a_recipe_lacks_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path, winner=None)
    run.choice = {"winner": None}
    write_page("spam", run.judged("").artifacts, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.headings["h1"] == ["7 candidates measured, none chosen"]
    assert page.headings["h2"] == [
        "Candidates",
        "Quality against latency",
        "The front",
        "Where they err",
        "Lineage",
        "Hardware",
    ]


def test_a_run_without_a_report_says_what_to_do(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.add("messages", "prepare", Kind.EXAMPLES, 3)
    with pytest.raises(ArtifactError, match=r"spam has no finished evaluate step \(it has messages\).*add one"):
        write_page("spam", run.artifacts, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = Run(tmp_path, labels=("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>$a_b$'))
    run.report["rows"][0]["candidate"] = "<b>&amp;:fp32"
    run.judged("")
    run.add(
        "live", "deploy", Kind.REPORT, 1, "choice", answers=[{"text": "</q><script>1", "label": "<i>"}], url="javascript:1"
    )
    write_page("<u>", run.artifacts, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert not {"script", "img", "u", "i"} & set(page.names)
    # Each step's record has its name in bold; one more would be the hostile candidate's.
    assert page.names.count("b") == len(run.artifacts) and "<b>&amp;:fp32" in page.text
    assert "</q><script>1" in page.text and "<u>" in page.text
    texts = ["".join(text.itertext()) for drawing in page.drawings() for text in drawing.iter(f"{SVG}text")]
    assert any(text.startswith("<script>") for text in texts)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(0.9, 10, 5), (0.8, 5, 5), (0.7, 7, 6)], "ab"),
        ([(0.9, 10, 5), (0.9, 10, 5), (0.9, 10, 6)], "ab"),
        ([(0.9, 10, 5), (0.8, 12, 1)], "ab"),
        ([(0.5, 1, 1), (0.6, 1, 1), (0.6, 0.5, 1)], "c"),
        ([(0.7, 3, 3)], "a"),
    ],
)
def test_pareto_front(points: list[tuple[float, float, float]], front: str) -> None:
    made = [
        {"candidate": name, "score": score, "latency_p95_ms": latency, "bytes": size}
        for name, (score, latency, size) in zip("abc", points, strict=False)
    ]
    assert pareto_front(made) == list(front)


def test_table_is_aligned_with_wide_characters_and_fits() -> None:
    report = Run(Path()).report
    report["rows"][2]["candidate"] = "学生模型:量化"
    report["rows"][3]["candidate"] = "a-very-long-name-for-a-candidate-that-must-be-cut:int8"
    del report["rows"][4]["accuracy"], report["rows"][4]["interval"]
    lines = comparison_table(report, winner="small:int8").splitlines()
    assert [display_width(text) for text in ("学生模型:量化", "ｶﾅ", "e\u0301é")] == [13, 2, 2]
    header, body = lines[0], lines[2:9]
    assert {display_width(line) for line in [header, *body]} == {display_width(lines[1])}
    assert max(map(display_width, lines)) <= 120
    assert [line for line in lines if line.startswith("* ")][0].split()[:3] == ["*", "small:int8", "0.968"]
    assert sum(line.startswith("* ") for line in body) == 1
    # The same column ends at the same place in every line, whatever stands before it.
    assert {display_width(line[: line.rindex("×") + 1]) for line in body} == {display_width(header)}
    assert "–" in body[4].split() and "学生模型:量化" in body[2] and "…" in body[3]


def with_floor(run: Run, score: float) -> Run:
    """The run, evaluated beside a floor of this score."""
    run.report["rows"].append(candidate("floor", score, 0.3, 2.0, 90_000, 5) | {"floor": True, "made": []})
    verdict = "the teacher is 4.1 points above a linear model (interval 2.8 to 5.4)"
    run.report["floor"] = {"candidate": "floor", "what": "a linear model", "outcome": "teacher above", "verdict": verdict}
    return run


@pytest.mark.parametrize("winner", ["small:int8", "floor"])
def test_the_floor_is_marked_in_the_table_and_told_below_it(winner: str) -> None:
    report = with_floor(Run(Path()), 0.942).report
    lines = comparison_table(report, winner).splitlines()
    assert lines[9].startswith("*_ floor " if winner == "floor" else "+_ floor ")
    assert [line for line in lines if "_" in line[:3]] == [lines[9], "_ the floor: a linear model"]
    assert lines[-1] == report["floor"]["verdict"] and {display_width(line) for line in lines[:10]} == {
        display_width(lines[1])
    }
    report["floor"]["verdict"] = "a linear model does as well; " * 6
    assert max(map(display_width, comparison_table(report, winner).splitlines())) <= 120
    front = front_of(report)
    (row,) = [one for one in front["front"] if one["candidate"] == "floor"]
    assert row["floor"] is True and front["floor"] == report["floor"]
    assert front["controls"] == {"distilled": [], "pruned": []}, "it is no control: nothing was left out of it"


@pytest.mark.parametrize("size", [(1000, 460), (360, 430)])
def test_the_floor_is_drawn_as_a_square_with_a_line_at_its_score(size: tuple[int, int]) -> None:
    report = with_floor(Run(Path()), 0.942).report
    drawn = quality_plot(report["rows"], Metric("macro_f1"), "small:int8", 0.97, size, floor=report["floor"])
    plot = ElementTree.fromstring(drawn)
    words = [text for one in plot.iter(f"{SVG}text") if (text := "".join(one.itertext())).startswith("floor")]
    assert len(words) == 1 and words[0].startswith("floor: a linear model")
    assert len([one for one in plot.iter() if one.attrib.get("id") == "quality-floor"]) == 1
    plain = quality_plot(report["rows"][:-1], Metric("macro_f1"), "small:int8", 0.97, size)
    assert "quality-floor" not in plain


def test_the_page_says_what_all_is_worth_above_the_floor(tmp_path: Path) -> None:
    run = with_floor(Run(tmp_path), 0.942).judged("")
    write_page("spam", run.artifacts, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "The teacher is 4.1 points above a linear model (interval 2.8 to 5.4)." in page.text
    assert "floorfloor" in page.heads, "the row says what it is"
    assert "The square is the floor: a linear model" in page.text and "the floor" in page.text.split("The front")[1]


def test_one_candidate_alone_can_be_drawn() -> None:
    only = [candidate("teacher:fp32", 1.0, 5.0, 90, 10, 0) | {"interval": None}]
    ElementTree.fromstring(quality_plot(only, Metric("accuracy"), "teacher:fp32", 0.97))


def test_lineage_puts_steps_after_their_parents_and_never_two_in_one_place() -> None:
    parents = {"a": [], "b": [], "c": ["a"], "d": ["b", "c"], "e": ["a", "d"], "f": ["b", "e"]}
    layout = arrange(parents, list(parents))
    assert all(layout.places[parent][0] < layout.places[child][0] for child in parents for parent in parents[child])
    assert len(set(layout.places.values())) == len(layout.places)
    assert {("a", 1), ("a", 2), ("b", 1)} & set(layout.places) == {("a", 1), ("a", 2), ("b", 1)}


def test_how_steady_answers_are_is_told_where_it_was_measured() -> None:
    report = Run(Path()).report
    assert steadiness(report) is None, "a report from before it was measured"
    figures = {"calibration_error": 0.0213, "batch_change": 0.0119, "batch_flips": 0.0025}
    report["rows"][1].update(figures)
    section = str(steadiness(report))
    assert all(written in section for written in ("0.021", "0.012", "0.2%", report["rows"][1]["candidate"]))
    assert report["rows"][0]["candidate"] not in section
    assert "0.012" in comparison_table(report).splitlines()[3]


def test_a_cascade_is_drawn_where_it_was_measured() -> None:
    report = Run(Path()).report
    winner = report["rows"][5]
    assert cascade.section(report, winner) is None
    points = [
        {"threshold": threshold, "asked": asked, "score": 0.968 + 0.015 * asked, "ms": 3.0 + 27.4 * asked}
        for threshold, asked in ((0.0, 0.0), (0.7, 0.2), (1.01, 1.0))
    ]
    fitted = {"threshold": 0.8137, "asked": 0.35, "score": 0.9751, "ms": 12.59}
    winner["cascade"] = {"kept": 0.99, "threshold": 0.8137, "validation": fitted, "judged": fitted, "curve": points}
    section = str(cascade.section(report, winner))
    drawing = re.search(r"<svg.*?</svg>", section, flags=re.DOTALL)
    assert drawing is not None and "35.0% go to the teacher" in drawing[0]
    told = re.sub(r"<[^>]+>", " ", section.replace(drawing[0], ""))
    assert "0.814 was fitted on validation to keep 99.0%" in told
    places = [told.index(threshold) for threshold in (" 0.000 ", " 0.700 ", " 0.814  ", " 1.010 ")]
    assert places == sorted(places), "the fitted threshold stands among the others"


def test_rows_that_were_left_out_are_shown_by_step(tmp_path: Path) -> None:
    first = {"file": "a.csv", "row": 7, "line": 9, "reason": "not utf-8", "detail": "byte 5 <of> the file"}
    found = {"by_reason": {"no text": 30, "not utf-8": 1}, "first": [first]}
    (tmp_path / "draft").mkdir()
    made = {
        name: publish_directory(tmp_path / "draft", tmp_path / name, Kind.EXAMPLES, name, {"rows_read": 1000}, details=details)
        for name, details in {"whole": {}, "holey": {"bad_rows": found}}.items()
    }
    assert left_out({"whole": made["whole"]}) is None
    shown = left_out(made)
    assert shown is not None
    words = ("Rows that were left out", "holey", "no text", "3.0%", "a.csv", ">9<", "not utf-8: byte 5 &lt;of&gt; the file")
    assert all(word in shown for word in words) and "whole" not in shown


def test_near_duplicates_are_shown_beside_what_stays(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    details = {"near_duplicates": [{"dropped": "win <now>", "kept": "赢取大奖", "similarity": 0.854}]}
    metrics = {"rows_read": 5000, "rows_near_duplicate": 1234}
    made = publish_directory(tmp_path / "draft", tmp_path / "rows", Kind.EXAMPLES, "rows", metrics, details=details)
    shown = left_out({"rows": made})
    assert shown is not None
    assert all(word in shown for word in ("rows: 1,234 near duplicates", "win &lt;now&gt;", "赢取大奖", "0.85"))
