"""Answering for files on the whole cluster, going on where a run was killed.

    summary = answer_files(Request(model="spam/production", input=("data/*.csv",), output="out"), storage, print)

The serving engine runs on a pool of actors. Each reads its own pieces from the storage and writes their parts back,
so no text passes through the driver or the object store.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.connection.connect import capacity
from cluster.store import storage
from jobs.data.pieces import Piece
from jobs.data.records import read
from jobs.data.table_rows import opened_parquet
from jobs.offline.actor_pool import answered_by
from jobs.offline.output_parts import (
    BAD_ROWS,
    SUMMARY,
    UNFINISHED,
    Plan,
    SplitRecord,
    bad_row,
    fault_of,
    part_name,
    read_identity,
    read_records,
    read_summary,
    record_place,
    write_identity,
    write_part,
)
from jobs.offline.request import Request, make_plan
from serve.engines.backends import Device
from serve.engines.published import open_model
from serve.tasks.protocol import Item

if TYPE_CHECKING:
    import pyarrow as pa

Report = Callable[[str], None]


def answer_files(request: Request, runs: str, report: Report) -> dict[str, Any]:
    """Answer for all rows, telling `report` how far it is; returns the summary."""
    began = time.time()
    request = request.model_copy(update={"output": storage.absolute(request.output)})
    plan = make_plan(request, runs)
    if storage.exists(storage.join(request.output, SUMMARY)):
        report(f"{request.output} is complete, nothing is done again")
        return read_summary(request.output)
    if read_identity(request.output) is None:
        write_identity(request.output, plan.identity)
    done = read_records(request.output, plan)
    if done:
        report(f"going on: {len(done)} of {len(plan.pieces)} pieces are done")
    progress = RowProgress(plan, done)
    for number, one in _answer(request, plan, [n for n in range(len(plan.pieces)) if n not in done]):
        done[number] = one
        report(progress.line(number, one))
    return _finish(request.output, plan, done, progress, time.time() - began)


class RowProgress:
    """How far a run is, and how fast: over the pieces of this run, from the first one's begin on."""

    def __init__(self, plan: Plan, before: Mapping[int, SplitRecord]) -> None:
        self.total = sum(map(len, plan.pieces))
        self.rows = sum(len(plan.pieces[number]) for number in before)
        self.bad = sum(len(one.bad) for one in before.values())
        self.answered = 0
        self.began, self.ended = float("inf"), 0.0
        self.plan = plan

    @property
    def rate(self) -> float:
        """Rows answered a second."""
        return self.answered / max(1e-9, self.ended - self.began) if self.answered else 0.0

    def line(self, number: int, one: SplitRecord) -> str:
        """Count a piece that is done; the state as a line."""
        self.rows += len(self.plan.pieces[number])
        self.bad += len(one.bad)
        self.answered += one.rows
        self.began, self.ended = min(self.began, one.began), max(self.ended, one.ended)
        share = self.rows / self.total
        return f"{self.rows:,} of {self.total:,} rows ({share:.1%})  {self.rate:,.0f} rows/s  {self.bad:,} bad"


class AnswerSplits:
    """An actor that holds the model and answers for pieces."""

    def __init__(self, request: Request, plan: Plan) -> None:
        from serve.engines.engine import load_engine

        self.output, self.plan = request.output, plan
        identity = plan.identity
        directory = open_model(identity.model, identity.fingerprint).fetch(identity.variant)
        # A GPU only where one is reserved: another actor's would else be used too.
        device: Device = "auto" if request.gpus else "cpu"
        self.engine = load_engine(directory, identity.variant, request.cpus, request.batch_size, device)

    def answer(self, number: int) -> SplitRecord:
        """Read a piece, write its part, then its record."""
        began, piece, identity = time.time(), self.plan.pieces[number], self.plan.identity
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        items: list[Item] = []
        for place, row in enumerate(read(piece, identity.files_as)):
            fault = fault_of(row, self.plan)
            if fault is not None:
                bad.append(bad_row(piece, place, row, fault))
                continue
            items.append(Item(tuple(self.plan.text(row, column) for column in self.plan.texts)))
            good.append({name: row.values[name] for name in identity.keep if name in row.values})
        if self.plan.annotates:
            good = [*self._pre_annotated(good, items)]
        else:
            for kept, answer in zip(good, self._answers(items), strict=True):
                kept.update(answer)
        write_part(storage.join(self.output, part_name(number, identity.format)), good, self.plan, self._schema(piece))
        done = SplitRecord(rows=len(good), bad=bad, began=began, ended=time.time())
        storage.write_bytes(record_place(self.output, number), done.model_dump_json().encode())
        return done

    def _answers(self, items: list[Item]) -> Iterator[dict[str, Any]]:
        task, columns = self.plan.task, self.plan.answer_columns
        for answer in self.engine.answers(items):
            cells = task.cells(answer, self.plan.identity.probabilities)
            yield {name: cells[name] for name in columns}

    def _pre_annotated(self, rows: Sequence[Mapping[str, Any]], items: list[Item]) -> Iterator[dict[str, Any]]:
        task = self.plan.task
        if not items:
            return
        outputs = self.engine.settled(items)
        sure = task.confidence(outputs)
        scores = [None] * len(items) if sure is None else [round(float(one), 6) for one in sure]
        for row, item, answer, score in zip(rows, items, task.answers(outputs, items), scores, strict=True):
            yield self.plan.pre_annotated(row, item, task.cells(answer, False), score)

    def _schema(self, piece: Piece) -> "pa.Schema | None":
        if not self.plan.typed:
            return None
        with opened_parquet(piece.part) as file:
            return file.schema_arrow


def _answer(request: Request, plan: Plan, numbers: list[int]) -> Iterator[tuple[int, SplitRecord]]:
    """Answer for these pieces on the actors; each as soon as it is done."""
    if numbers:
        demand = {"num_cpus": request.cpus, "num_gpus": request.gpus}
        yield from answered_by(AnswerSplits, (request, plan), numbers, _workers(request), **demand)


def _workers(request: Request) -> int:
    if request.workers is not None:
        return request.workers
    there = capacity()
    by_gpu = there.gpus / request.gpus if request.gpus else float("inf")
    return max(1, int(min(there.cpus / request.cpus, by_gpu)))


def _finish(output: str, plan: Plan, done: Mapping[int, SplitRecord], progress: RowProgress, seconds: float) -> dict[str, Any]:
    """Gather the bad rows in the input's order, write the summary, remove the records."""
    bad = [row for number in sorted(done) for row in done[number].bad]
    if bad:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)
        storage.write_bytes(storage.join(output, BAD_ROWS), lines.encode("utf-8", "backslashreplace"))
    summary = {
        "rows": sum(one.rows + len(one.bad) for one in done.values()),
        "answered": sum(one.rows for one in done.values()),
        "bad": dict(Counter(row["reason"] for row in bad).most_common()),
        "rows_per_second": round(progress.rate, 1),
        "seconds": round(seconds, 1),
        "output": output,
        "asked": plan.identity.model_dump(mode="json"),
    }
    storage.write_bytes(storage.join(output, SUMMARY), json.dumps(summary, ensure_ascii=False, indent=1).encode())
    storage.delete(storage.join(output, UNFINISHED))
    return summary
