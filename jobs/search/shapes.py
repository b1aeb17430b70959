"""Shapes that cannot meet a latency budget are found with random weights, before anything trains, and never become trials.

    step, timed = within_budget(step, inputs, context)      # the step with the shapes that are left, and what was measured

Speed hangs on a model's shape, not on what its weights know. Each distinct shape is built, exported and quantised as it would
be deployed, and timed through the serving engine; all shapes take turns, so that whatever else the machine does falls on all.
"""

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store.storage import exists, join, read_bytes, write_bytes
from jobs.core.recipe import Step
from jobs.core.spaces import SHAPE, Budget, Space, shape_spaces
from jobs.core.stage import Context, Inputs, Refused
from jobs.tasks import cleaning_of, spec_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from jobs.compression.quantize import Feeds
    from serve.engines.base import Engine
    from serve.engines.card import Card
    from serve.tasks.protocol import Item

FILE = "shapes.json"
TURNS = 3
"""Each text counts with the fastest of so many turns: a pause of the machine is not the shape's fault."""


def within_budget(step: Step, inputs: Inputs, context: Context) -> tuple[Step, list[dict[str, Any]]]:
    """The step with only those shapes in its search that meet the budget, and a row for each shape that was timed.

    Refused where none does. A search that goes on keeps what was found when it began.
    """
    import ray

    budget = step.tune.budget
    if budget is None:
        return step, []
    file = join(context.scratch, FILE)
    if not exists(file):
        remote = ray.remote(time_shapes).options(num_cpus=step.resources.cpus, max_retries=step.resources.max_failures)
        write_bytes(file, json.dumps(ray.get(remote.remote(step, inputs))).encode())
    timed: list[dict[str, Any]] = json.loads(read_bytes(file))
    for row in timed:
        verdict = "within" if row["fits"] else "over"
        print(f"shape {row['name']}: p95 {row['p95_ms']:.2f} ms, {verdict} the budget", flush=True)
    left = {row["name"]: row["values"] for row in timed if row["fits"]}
    if not left:
        fastest = min(timed, key=lambda row: row["p95_ms"])
        raise Refused(
            f"no shape answers within p95 {budget.maximum_p95_ms:g} ms; the fastest of {len(timed)}, {fastest['name']}, takes "
            f"{fastest['p95_ms']:.2f} ms. Add smaller shapes to the search, or raise tune.budget.maximum_p95_ms"
        )
    return narrowed(step, left), timed


def narrowed(step: Step, shapes: Mapping[str, Mapping[str, Any]]) -> Step:
    """The step with one space over these shapes in the place of those that make a shape."""
    replaced = shape_spaces(step.spaces, step.shaped_by)
    if not replaced:
        return step
    kind = next(iter(replaced.values())).kind
    spaces = {path: space for path, space in step.spaces.items() if path not in replaced}
    return replace(step, spaces={**spaces, SHAPE: Space(kind, tuple(shapes))}, shapes=shapes)


def shapes_of(step: Step) -> dict[str, dict[str, Any]]:
    """Every distinct shape of the search by a name that says its values."""
    spaces = shape_spaces(step.spaces, step.shaped_by)
    combined = itertools.product(*(space.values for space in spaces.values()))
    found = (dict(zip(spaces, values, strict=True)) for values in combined)
    return {name_of(values): values for values in found}


def name_of(values: Mapping[str, Any]) -> str:
    """`student.layers [0, 3], student.feed_forward 0.5`; the recipe's own where nothing of the shape is searched."""
    return ", ".join(f"{path} {json.dumps(value)}" for path, value in values.items()) or "the recipe's own"


@dataclass
class TimedShape:
    """A shape that takes its turns."""

    engine: "Engine"
    parameters: int
    bytes: int
    seconds: list[float] = field(default_factory=list)


def time_shapes(step: Step, inputs: Inputs) -> list[dict[str, Any]]:
    """A row for each shape: name, values, parameters, bytes, p50 and p95 in ms, and whether that fits."""
    import numpy as np
    import torch

    from jobs.judging.quality import ROUNDS, measure_latency

    budget = step.tune.budget
    assert budget is not None
    torch.set_num_threads(max(1, int(step.resources.cpus)))
    items, shapes = _items(inputs, budget), shapes_of(step)
    first = {path: space.examples()[0] for path, space in step.spaces.items()}
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory, str(number)) for number in range(len(shapes))]
        built = zip(shapes.values(), places, strict=True)
        timed = [_build(step, first | values, inputs, budget, items, place) for values, place in built]
        for _ in range(TURNS):
            measure_latency(timed, items, len(items), ROUNDS)
    rows = []
    for (name, values), shape in zip(shapes.items(), timed, strict=True):
        fastest_N = np.array(shape.seconds).reshape(TURNS, -1).min(0) * 1e3
        p50, p95 = (float(figure) for figure in np.percentile(fastest_N, [50, 95]))
        figures = {"parameters": shape.parameters, "bytes": shape.bytes, "p50_ms": p50, "p95_ms": p95}
        rows.append({"name": name, "values": values, **figures, "fits": p95 <= budget.maximum_p95_ms})
    return rows


def _items(inputs: Inputs, budget: Budget) -> list["Item"]:
    """Items of the validation split, or of train where there is none: the lengths that the user's data has."""
    from jobs.data.training_rows import read_examples
    from serve.tasks.protocol import Item

    examples = inputs.one("examples")
    split = "validation" if examples.files("validation/", ".parquet") else "train"
    table = read_examples(examples, split)
    texts = [table[name].to_pylist() for name in spec_of(examples).fields]
    chosen = list(zip(*texts, strict=True))[:: max(1, table.num_rows // budget.texts)][: budget.texts]
    return [Item(values) for values in chosen]


def _build(
    step: Step, values: Mapping[str, Any], inputs: Inputs, budget: Budget, items: Sequence["Item"], place: Path
) -> TimedShape:
    """One shape with random weights, in the form in which it would be deployed."""
    from jobs.architectures.models import length_of
    from jobs.compression.export import Signature, export_onnx
    from jobs.compression.forms import NAMES
    from jobs.compression.settings import Quantization
    from jobs.compression.variants import SOURCE, quantize
    from jobs.tasks.heads import inputs_of
    from jobs.tasks.supervised import save_model
    from jobs.training.task_config import base_origin
    from serve.engines.card import Variant, read_card, variant_files, write_card
    from serve.engines.engine import load_engine

    assert step.stage.searchable is not None and (shape := step.stage.searchable.shape) is not None
    config: Any = step.configure(values)
    if (write := step.stage.searchable.write_shape) is not None and write(config, inputs, place):
        return _written(place, budget)
    model, tokenizer = shape(config, inputs)
    examples = inputs.one("examples")
    length, spec = length_of(base_origin(config, inputs), config.max_length), spec_of(examples)
    save_model(model, tokenizer, spec, length, place, inputs_of(model, spec), cleaning=cleaning_of(examples))
    card = read_card(place)
    export_onnx(model, place / SOURCE, Signature.of(card))
    file = SOURCE
    if budget.quantize != "none":
        file = f"onnx/model.{NAMES[budget.quantize]}.onnx"
        settings = Quantization(quantize=(budget.quantize,))
        feeds = list(_feeds(tokenizer, card, items[: settings.calibration.examples]))
        quantize(budget.quantize, place / SOURCE, place / file, feeds, settings)
    variants = {"timed": Variant(backend="onnx", file=file, precision="fp32" if budget.quantize == "none" else "int8")}
    write_card(place, card := card.model_copy(update={"variants": variants, "default": "timed"}))
    size = sum(path.stat().st_size for path in variant_files(place, card))
    return TimedShape(load_engine(place, threads=budget.threads, max_batch=1), card.parameters, size)


def _written(place: Path, budget: Budget) -> TimedShape:
    """A shape that is no transformer, in the precision that is nearest to what would be deployed."""
    from serve.engines.card import read_card, variant_files
    from serve.engines.engine import load_engine

    card = read_card(place)
    wanted = {"none": card.default, "int4": "int4"}.get(budget.quantize, "int8")
    name = wanted if wanted in card.variants else card.default
    size = sum(path.stat().st_size for path in variant_files(place, card, name))
    return TimedShape(load_engine(place, name, threads=budget.threads, max_batch=1), card.parameters, size)


def _feeds(tokenizer: "PreTrainedTokenizerBase", card: "Card", items: Sequence["Item"]) -> "Iterator[Feeds]":
    """Each window of these items as a batch of its own, as the engine would cut it."""
    import numpy as np

    from jobs.tasks.windows import FEEDS, engine_tokenizer

    assert card.task is not None, "it was saved for one"
    read = {"attention_mask": "attention_mask", **FEEDS}
    for windows in card.task.encode(engine_tokenizer(tokenizer, card.task, card.max_length), items):
        for window in windows:
            yield {name: np.array([getattr(window, read[name])], dtype=np.int64) for name in card.inputs}
