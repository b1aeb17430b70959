"""BENCH=kinds, its first part: teachers as a recipe trains them, against the loop of kinds_loop.py from the same weights.

lines = list(against_loop(run))
"""

import json
import tempfile
from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from tests.benchmarks.kinds_road import SEEDS, THREADS, Run
from tests.benchmarks.kinds_scores import apart, apart_by_seed
from tests.benchmarks.peers import printed

POINTS = 0.5


def against_loop(run: Run) -> Iterator[dict[str, Any]]:
    """How far apart the sides' test scores are, a mean over the seeds; the sign is in the detail."""
    pairs, seconds = [], []
    for seed in SEEDS:
        teacher, looped = run.teacher(seed), _looped(run, seed)
        pairs.append((run.said(teacher), run.arrays(looped["answers"])))
        seconds.append([round(teacher.manifest.seconds, 1), round(looped["seconds"], 1)])
    truth, measure = run.truth(), run.measure
    points, (low, high) = apart(measure, truth, pairs)
    each, over_seeds = apart_by_seed(measure, truth, pairs)
    detail = {
        "recipe_better_by": round(points, 2),
        "interval": [round(low, 2), round(high, 2)],
        "holds_0": low <= 0 <= high,
        "by_seed": [round(one, 2) for one in each],
        "interval_over_seeds": [round(bound, 2) for bound in over_seeds],
        measure.name: {
            side: [round(measure.of(truth, pair[place]), 4) for pair in pairs] for place, side in enumerate(("recipe", "loop"))
        },
        "steps": looped["steps"],
        "seconds": seconds,
    }
    yield {
        "name": f"{run.name}_against_loop",
        "value": round(abs(points), 2),
        "goal": POINTS,
        "better": "lower",
        "unit": measure.unit,
        "detail": detail,
    }


def _looped(run: Run, seed: int) -> dict[str, Any]:
    """The loop's answers from the weights that a teacher began with, in the order in which it saw the rows."""
    import torch
    from transformers import PreTrainedModel

    from jobs.core.stage import Inputs
    from jobs.finetune import FinetuneConfig, build
    from jobs.tasks.supervised import Supervised
    from jobs.training.parallel import resolve_precision

    config = run.recipe.steps[f"teacher_{seed}"].config
    assert isinstance(config, FinetuneConfig)
    torch.manual_seed(seed)
    base = {} if run.base is None else {"init": [run.base]}
    model, learner = build(config, Inputs(examples=[run.rows], **base))
    assert isinstance(learner, Supervised)
    epochs = (learner.epoch(epoch, config.batch_size, seed) for epoch in count())
    order = [batch.tolist() for batch in islice(chain.from_iterable(epochs), config.max_steps)]
    given = {
        "kind": run.data.kind,
        "names": run.names,
        "bounds": run.bounds,
        "order": order,
        "rate": config.optimizer.learning_rate,
        "warmup": config.schedule.warmup,
        "weight_decay": config.optimizer.weight_decay,
        "clip_norm": config.clip_norm,
        "max_length": config.max_length,
        "bf16": resolve_precision("auto") == "bf16",
        "threads": THREADS,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as place:
        assert isinstance(model, PreTrainedModel)
        model.save_pretrained(Path(place, "model"))
        learner.tokenizer.save_pretrained(Path(place, "model"))
        Path(place, "loop.json").write_text(json.dumps(given))
        rows = {split: run.split(split) for split in ("train", "validation", "test")}
        Path(place, "rows.json").write_text(json.dumps({name: _by_column(split) for name, split in rows.items()}))
        found: dict[str, Any] = printed("tests.benchmarks.kinds_loop", place)
    return found | {"steps": len(order)}


def _by_column(split: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"texts": [list(column) for column in zip(*split["texts"], strict=True)], "target": split["target"]}
