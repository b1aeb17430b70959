"""A static student, ready to learn: vectors from an encoder that reads each feature alone, and a task that reads as it does.

    model, task = static_student(settings, examples, encoder, max_length=None, seed=0, calibrate=calibrate_variants)

The encoder is the teacher itself (`inputs.teacher_model`) or any other model (`inputs.init`, `model:`); without one they are
of chance.
"""

import numpy as np
import torch

from cluster.store.artifact import Artifact
from jobs.architectures.models import read_base
from jobs.architectures.settings import StaticStudent
from jobs.architectures.static_model import StaticModel, StaticShape
from jobs.compression.static_features import StaticFeatures, features_of
from jobs.compression.static_task import Calibrate, StaticTask
from jobs.core.config import BadInput, Problem
from jobs.data.training_rows import read_examples
from jobs.tasks import spec_of
from jobs.tasks.floors import row_width
from jobs.training.static_vectors import chance, encoded, frequency_weights, principal
from serve.tasks.protocol import Task


def static_student(
    settings: StaticStudent,
    examples: Artifact,
    encoder: str | Artifact | None,
    max_length: int | None,
    seed: int,
    calibrate: Calibrate,
) -> tuple[StaticModel, StaticTask]:
    """The model with its first vectors, and what it learns; BadInput where the task is of no kind that it can learn."""
    spec = spec_of(examples)
    outputs = outputs_of(spec)
    base = None if encoder is None else read_base(encoder)
    table = read_examples(examples, "train")
    texts = [text for name in spec.fields for text in table[name].to_pylist()]
    # How long texts are is the student's own matter where the recipe says it: it has no positions.
    length = max_length if max_length is not None or base is None else base.reach.length(None)
    features = features_of(settings, None if base is None else base.tokenizer, texts, length)
    task = StaticTask(examples, spec, features, calibrate)
    vectors_VD = _vectors(settings, features, encoder, 0 if base is None else int(base.tokenizer.pad_token_id), seed)
    weights_V = frequency_weights(task.counts_V, settings.smoothing)
    if settings.mean == "plain":
        weights_V = np.ones_like(weights_V)
    return StaticModel(
        torch.from_numpy(vectors_VD), torch.from_numpy(weights_V), _shape(settings, spec, features, outputs)
    ), task


def outputs_of(spec: Task) -> int:
    """How many numbers a model of the task gives for a text; BadInput where that is no single row of them."""
    outputs = row_width(spec)
    if not outputs or not spec.dense or spec.windows or spec.per_token:
        reason = f"a static student gives one row of numbers for a text, and {spec.kind} asks for more"
        raise BadInput([Problem("student.kind", "static", reason, "Take a part of a base, or a smaller base.")])
    return outputs


def _vectors(
    settings: StaticStudent, features: StaticFeatures, encoder: str | Artifact | None, pad: int, seed: int
) -> np.ndarray:
    if encoder is None or features.sequences is None or settings.weights == "random":
        return chance(sum(features.cutter.rows), settings.dimension, seed)
    vectors_VH = encoded(encoder, features.sequences, pad)
    if settings.dimension > vectors_VH.shape[1]:
        reason = f"the encoder's vectors have {vectors_VH.shape[1]} numbers"
        raise BadInput([Problem("student.dimension", settings.dimension, reason, "Lower it, or take a wider encoder.")])
    return principal(vectors_VH, settings.dimension)


def _shape(settings: StaticStudent, spec: Task, features: StaticFeatures, outputs: int) -> StaticShape:
    texts, sorts = len(spec.fields), len(features.cutter.rows)
    return StaticShape(texts, sorts, outputs, settings.hidden, settings.mean == "learned", settings.token_dropout)
