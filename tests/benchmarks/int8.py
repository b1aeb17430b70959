"""Each int8 form of MiniLM 6×384 against float ONNX on the processor that is at hand. `make bench BENCH=int8`

Quality is that of `evaluate`; speed is the median of five pairs in turns, one thread, one text at a time, of so many tokens.
Each line names the kind of processor, for it holds for no other.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cluster.connection.connect import attach_or_start
from cluster.store.artifact import Artifact
from jobs.core.recipe import load_recipe
from jobs.judging.results import read_report
from jobs.running.execute import execute
from serve.engines import processor
from serve.engines.engine import Engine
from serve.tasks.protocol import Item
from tests.benchmarks.compress import _engine, _row, _turns
from tests.benchmarks.labelled import CPUS, line

RECIPE = str(Path(__file__).with_suffix(".yaml"))
TOKENS = (32, 64)
FLOAT = "onnx"
FASTER = {True: 1.8, False: 2.2}
"""How many times as fast as float a form is to be, where products saturate (AVX2) and where they do not (VNNI)."""
POINTS, PARITY = 0.5, 0.05
"""What it may lose meanwhile: points of the score, and a probability's largest change."""
PER_TEXT = 60


def measures() -> Iterator[dict[str, Any]]:
    """A line for each form, and one that says whether one of them does all of it."""
    import ray

    with tempfile.TemporaryDirectory() as place, attach_or_start("local", cpus=CPUS) as cluster:
        ray.init(cluster.address, log_to_driver=False)
        try:
            recipe = load_recipe(RECIPE)
            made = {step: execute(recipe, step, place) for step in recipe.steps}
        finally:
            ray.shutdown()
        yield from _lines(made)


def _lines(made: Mapping[str, Artifact]) -> Iterator[dict[str, Any]]:
    report, goal = read_report(made["judged"]), FASTER[processor.kind().saturating]
    found = {}
    for row in report["rows"][1:]:
        if row["variant"] not in ("torch", FLOAT):
            found[row["variant"]] = _line(row, report, made, goal)
            yield found[row["variant"]]
    both = {name: one for name, one in found.items() if _does_all(one, goal)}
    best = max(both or found, key=lambda name: found[name]["value"])
    detail = {**found[best]["detail"], "form": best, "one_form_does_all": bool(both)}
    yield line("int8_one_form", found[best]["value"] if both else 0.0, goal, "ratio of p50 latency to float ONNX", detail)


def _does_all(one: Mapping[str, Any], goal: float) -> bool:
    detail = one["detail"]
    return one["value"] >= goal and detail["points_lost"] <= POINTS and detail["parity_change"] <= PARITY


def _line(row: Mapping[str, Any], report: Mapping[str, Any], made: Mapping[str, Artifact], goal: float) -> dict[str, Any]:
    plain = _row(report, f"{row['step']}:{FLOAT}")
    texts = _texts(made)
    pairs = {tokens: _pairs(made["forms"], row["variant"], [texts[tokens]] * PER_TEXT) for tokens in TOKENS}
    detail = {
        "processor": str(processor.kind()),
        "cpu": processor.name(),
        "int8_products": row.get("int8_products"),
        "by_tokens": {tokens: round(median(slow / fast for slow, fast in own), 2) for tokens, own in pairs.items()},
        "pairs_p50_ms": {tokens: [[round(figure, 2) for figure in pair] for pair in own] for tokens, own in pairs.items()},
        "points_lost": round(100 * (plain["score"] - row["score"]), 2),
        "parity_change": round(row["parity_change"], 4),
        "batch_change": round(row["batch_change"], 4),
        "bytes": row["bytes"],
        "test_texts": report["examples"],
    }
    ratio = median(slow / fast for own in pairs.values() for slow, fast in own)
    return line(f"int8_{row['variant']}", ratio, goal, "ratio of p50 latency to float ONNX", detail)


def _pairs(forms: Artifact, variant: str, texts: Sequence[str]) -> list[tuple[float, float]]:
    """p50 in ms of float and of the form, in each of five turns."""
    slow, fast = _turns([_engine(forms, FLOAT), _engine(forms, variant)], texts)
    return [(median(one) * 1e3, median(other) * 1e3) for one, other in zip(slow, fast, strict=True)]


def _texts(made: Mapping[str, Artifact]) -> dict[int, str]:
    """For each number of tokens the messages of the test split, as far as they come to it."""
    from jobs.data.training_rows import read_examples
    from serve.engines.engine import load_engine

    words = " ".join(read_examples(made["messages"], "test")["text"].to_pylist()).split()
    engine = load_engine(made["forms"].local(), FLOAT)
    return {tokens: _as_long(engine, words, tokens) for tokens in TOKENS}


def _as_long(engine: Engine, words: Sequence[str], tokens: int) -> str:
    count = 1
    while len(engine.tokenise([Item((" ".join(words[: count + 1]),))])[0][0]) <= tokens and count < tokens:
        count += 1
    return " ".join(words[:count])
