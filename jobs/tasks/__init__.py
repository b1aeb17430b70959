"""How each kind of task is learned and judged: one file a kind, and what wraps any of them (supervised, distilled, matched).

    learning_of("…")                    # the jobs half of a kind, by its name
    spec_of(examples)                   # the serve half that prepare has written beside them
    cleaning_of(examples)               # how it cleaned them

The serve halves, and how kinds of other packages are found, are in serve/tasks.
"""

import json
from functools import cache

from cluster.store.artifact import Artifact
from jobs.contracts.learning import Learning
from serve.cleaning.cleaning import Cleaning
from serve.tasks import ANSWER, half_of, kinds, task_of
from serve.tasks.protocol import Task

LEARN = "learn"
OWN = "serve.tasks."
"""What the modules of this repository's own kinds begin with."""
TASK_FILE = "task.json"
CLEANING_FILE = "cleaning.json"


@cache
def learning_of(kind: str) -> Learning:
    """How tasks of this kind are learned; ValueError names the kinds that there are, or says why it cannot be loaded."""
    if kind not in kinds():
        raise ValueError(f"{kind} is no kind of task here; there are {', '.join(sorted(kinds()))}")
    answering = kinds()[kind]
    own = answering.startswith(OWN)
    module = f"{__name__}.{kind}" if own else f"{answering.removesuffix(ANSWER)}{LEARN}"
    found: Learning = half_of(kind, module, "LEARNING")
    return found


@cache
def usual_kind() -> str:
    """The kind of a `task` that names none: of this repository's own the one whose settings have a default for it."""
    own = (kind for kind, module in kinds().items() if module.startswith(OWN))
    return next(kind for kind in own if not learning_of(kind).Settings.model_fields["kind"].is_required())


def spec_of(examples: Artifact) -> Task:
    """The task of EXAMPLES."""
    return task_of(json.loads((examples.local([TASK_FILE]) / TASK_FILE).read_text(encoding="utf-8")))


def cleaning_of(examples: Artifact) -> Cleaning | None:
    """How the texts of EXAMPLES were cleaned; None of those of older runs, which do not say it."""
    if CLEANING_FILE not in examples.manifest.files:
        return None
    return Cleaning.model_validate_json((examples.local([CLEANING_FILE]) / CLEANING_FILE).read_bytes())
