"""compress: a MODEL becomes a smaller one: feed-forward neurons pruned, healed, exported to ONNX, quantised to int8.

    ray job submit --working-dir . -- python -m jobs.compress jobs/recipes/spam.yaml --step small prune.feed_forward=0.5

The result holds several candidates: `torch` (what is left after pruning), `onnx` and `int8`.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cluster.artifact import Kind, upload
from jobs.core.cli import main
from jobs.core.config import Config
from jobs.core.stage import Context, Input, Inputs, Outcome, Stage
from jobs.finetune import labels_of
from jobs.training.models import check_length
from jobs.training.settings import Optimizer, Training

if TYPE_CHECKING:
    from torch import nn

    from jobs.training.worker import Learner


class Prune(Config):
    """What is taken out."""

    feed_forward: float = Field(0.0, ge=0, lt=1)
    """Share of each layer's feed-forward neurons to remove, the least important ones."""
    calibration_batches: int = Field(16, ge=1)
    """Training batches over which importance is measured."""


class Heal(Training):
    """Training after pruning, to win back what was lost; from the teacher's soft labels where there are any."""

    optimizer: Optimizer = Optimizer(learning_rate=5e-5)
    """What moves the weights."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the training split."""
    temperature: float = Field(2.0, gt=0, le=100)
    """As in distill."""
    alpha: float = Field(0.9, ge=0, le=1)
    """As in distill."""


class CompressConfig(Config):
    """What is done to the model, in this order: prune, heal, export, quantise."""

    prune: Prune = Prune()
    """What is taken out."""
    heal: Heal = Heal()
    """Training after pruning; skipped where nothing was pruned."""
    quantize: Literal["none", "dynamic"] = "dynamic"
    """dynamic: int8 weights and embeddings, activations scaled while running (ONNX Runtime)."""
    max_length: int = Field(128, ge=8)
    """Longer texts are cut to so many tokens."""


def run(config: CompressConfig, inputs: Inputs, context: Context) -> Outcome:
    """Do it all in one worker process of the cluster."""
    import ray

    check_length(inputs.one("model"), config.max_length)
    resources = context.resources
    remote = ray.remote(_compress).options(
        num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=resources.max_failures
    )
    return ray.get(remote.remote(config, inputs, context))


def _compress(config: CompressConfig, inputs: Inputs, context: Context) -> Outcome:
    import tempfile

    import torch

    from jobs.training.hooks import RunHooks
    from jobs.training.loop import fit

    torch.set_num_threads(max(1, int(context.resources.cpus)))
    torch.manual_seed(config.heal.seed)
    model, learner = _build(config, inputs)
    metrics: dict[str, float] = {}
    details: dict[str, object] = {}
    if config.prune.feed_forward > 0:
        metrics |= _prune(config, model, learner)
        context.report(state="pruned", **metrics)
        fitted = fit(model, learner, config.heal, RunHooks(context.report))
        metrics |= fitted.metrics
        details["curve"] = fitted.curve
    with tempfile.TemporaryDirectory() as directory:
        here = replace(context, directory=Path(directory))
        metrics |= learner.save(model, here.directory)
        context.report(state="exporting")
        metrics |= _export(config, model, here.directory)
        return Outcome(metrics=metrics, details=details, files=upload(here.directory, context.output))


def _build(config: CompressConfig, inputs: Inputs) -> tuple["nn.Module", "Learner"]:
    from jobs.tasks.classification import Classification
    from jobs.tasks.distillation import DistilledClassification
    from jobs.training.models import load_classifier

    examples, teacher = inputs.one("examples"), inputs.maybe("teacher")
    labels = labels_of(examples)
    model, tokenizer = load_classifier(inputs.one("model"), labels)
    if teacher is None:
        return model, Classification(examples, tokenizer, labels, config.max_length)
    heal = config.heal
    return model, DistilledClassification(
        examples, tokenizer, labels, config.max_length, teacher, heal.temperature, heal.alpha
    )


def _prune(config: CompressConfig, model: "nn.Module", learner: "Learner") -> dict[str, float]:
    from transformers import PreTrainedModel

    from jobs.compression.prune import neuron_importance, prune_feed_forward
    from jobs.data.loader import epoch_batches

    assert isinstance(model, PreTrainedModel)
    size = min(config.heal.batch_size, learner.size)
    chosen = list(epoch_batches(learner.size, size, config.heal.seed, 0))[: config.prune.calibration_batches]
    importance = neuron_importance(model, learner, (learner.batch(indices, (config.heal.seed,)) for indices in chosen))
    before = model.config.intermediate_size
    kept = prune_feed_forward(model, importance, config.prune.feed_forward)
    return {"feed_forward_before": float(before), "feed_forward_kept": float(kept)}


def _export(config: CompressConfig, model: "nn.Module", directory: Path) -> dict[str, float]:
    """Write the ONNX variants beside the torch weights and enter them in the card."""
    from transformers import PreTrainedModel

    from jobs.compression.export import export_onnx
    from jobs.compression.quantize import quantize_dynamic_int8
    from serve.card import Variant, read_card, write_card

    assert isinstance(model, PreTrainedModel)
    card = read_card(directory)
    variants = dict(card.variants)
    difference = export_onnx(model, directory / "onnx" / "model.onnx")
    variants["onnx"] = Variant(backend="onnx", file="onnx/model.onnx", precision="fp32")
    if config.quantize == "dynamic":
        quantize_dynamic_int8(directory / "onnx" / "model.onnx", directory / "onnx" / "model.int8.onnx")
        variants["int8"] = Variant(backend="onnx", file="onnx/model.int8.onnx", precision="int8")
    write_card(directory, card.model_copy(update={"variants": variants, "default": list(variants)[-1]}))
    return {"export_difference": difference}


STAGE = Stage(
    name="compress",
    purpose="prune, heal, export to ONNX and quantise",
    config=CompressConfig,
    run=run,
    inputs={
        "model": Input(Kind.MODEL, "the student"),
        "examples": Input(Kind.EXAMPLES, "labelled rows, for importance and healing"),
        "teacher": Input(Kind.PREDICTIONS, "soft labels to heal from", optional=True),
    },
    output=Kind.MODEL,
    version=1,
    headline=("feed_forward_kept", "macro_f1", "export_difference"),
)

if __name__ == "__main__":
    main(STAGE)
