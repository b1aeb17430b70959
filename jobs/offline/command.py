"""The command line of answering for files; `python -m jobs.predict` comes here where it is given --model.

python -m jobs.predict --model spam/production --input data/*.csv --column body --output answers/
python -m jobs.predict --model pairs/production --input pairs.csv --columns text=question pair=answer --output answers/
python -m jobs.predict --model s3://bucket/runs/spam/small-1a2b3c4d --input s3://bucket/*.parquet --output s3://bucket/answers
"""

import argparse
import json
import shutil
import sys

from pydantic import ValidationError

from cluster.store.storage import absolute
from jobs.core.config import BadInput, problems_of
from jobs.core.places import default_storage
from jobs.offline.request import Request
from jobs.running.cli import connect, guarded

LISTS = ("input", "columns", "file_columns", "keep")


def main(arguments: list[str]) -> None:
    """Run the command line; exits as every job does: 0, 2 for bad input, 130 when stopped."""
    parsed = parser().parse_args(arguments)
    guarded(lambda: _run(parsed))


def parser() -> argparse.ArgumentParser:
    """One option for each field of Request."""
    made = argparse.ArgumentParser(
        prog="python -m jobs.predict",
        description="Answer for files with a published model, on the whole cluster. What was killed goes on where it was.",
    )
    for name, field in Request.model_fields.items():
        option, meaning = f"--{name.replace('_', '-')}", field.description
        if field.annotation is bool:
            made.add_argument(option, action="store_true", help=meaning)
        elif name in LISTS:
            made.add_argument(option, nargs="+", required=field.is_required(), help=meaning)
        else:
            made.add_argument(option, required=field.is_required(), help=meaning)
    made.add_argument("--storage", default=default_storage(), help="whose registry knows the aliases (default: %(default)s)")
    return made


def request_of(parsed: argparse.Namespace) -> Request:
    """What was asked, and nothing that was not: whether an option was given says something too. BadInput where it is wrong."""
    given = {name: value for name, value in vars(parsed).items() if name != "storage" and value is not None}
    try:
        return Request.model_validate(given)
    except ValidationError as error:
        raise BadInput(problems_of(error, Request, "")) from error


def _run(parsed: argparse.Namespace) -> int:
    request = request_of(parsed)
    connect()
    # Here and not above: with the model's libraries it takes seconds, and wrong options should be told at once.
    from jobs.offline.answering import answer_files

    show = _rewrite if sys.stdout.isatty() else _print
    summary = answer_files(request, absolute(parsed.storage), show)
    if sys.stdout.isatty():
        print()
    del summary["asked"]
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 0


def _print(line: str) -> None:
    print(line, flush=True)


def _rewrite(line: str) -> None:
    """In place on a terminal."""
    print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
