"""A language model's soft labels: made by predict over tokens, learned by pretrain.

`pytest tests/jobs/test_distilled_language.py`
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from cluster.connection.connect import Cluster
from cluster.store.artifact import Artifact, Kind, publish
from jobs import predict
from jobs.contracts.learning import MISSING
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs
from jobs.data.tokenizer import tokenizer_of
from jobs.objectives.distilled_language import DistilledLanguage, SoftTokens, masked_by
from jobs.objectives.language import join_batches
from jobs.objectives.pretrained import load_base
from jobs.objectives.target_head import LanguageModel
from jobs.predict import PredictConfig
from jobs.pretrain import PretrainConfig, _check_teacher, build
from jobs.training.hooks import RunHooks
from jobs.training.loop import fit
from tests.jobs.language_runs import language_config, language_model, publish_language
from tests.jobs.tiny import publish_directory

KEPT, TEMPERATURE, DRAWS = 12, 2.0, 3


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return publish_language(tmp_path_factory.mktemp("tokens"), "masked")


@pytest.fixture(scope="module")
def words(tokens: Artifact) -> PreTrainedTokenizerBase:
    return tokenizer_of(tokens)


def teacher(root: Path, objective: str, words: PreTrainedTokenizerBase) -> Artifact:
    """A new model whose answers are far from even."""
    (root / "draft").mkdir(parents=True)
    model = language_model(objective, words, dropout=0.0).model
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(root / "draft")
    words.save_pretrained(root / "draft")
    return publish_directory(root / "draft", root / "teacher", Kind.MODEL, "teacher")


@pytest.fixture(scope="module", params=("masked", "causal"))
def answered(
    request: pytest.FixtureRequest,
    ray_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    tokens: Artifact,
    words: PreTrainedTokenizerBase,
) -> tuple[str, Artifact, Artifact]:
    """The objective, the teacher and its answers, made by predict with Ray Data."""
    import ray

    root = tmp_path_factory.mktemp(request.param)
    model = teacher(root, request.param, words)
    asked = {"top_k": KEPT, "temperature": TEMPERATURE, "draws": DRAWS, "masking": "whole_words", "mask_probability": 0.3}
    context = Context(str(root), "story", "soft", str(root / "soft"), "1", directory=root / "soft-draft")
    context.directory.mkdir()
    ray.init(ray_cluster.address, log_to_driver=False)
    try:
        config = PredictConfig.model_validate({"language": asked, "batch_size": 5, "precision": "fp32"})
        outcome = predict.run(config, Inputs(model=[model], tokens=[tokens]), context)
    finally:
        ray.shutdown()
    assert 0 < outcome.metrics["left_out"] < 0.9 and outcome.metrics["targets"] > outcome.metrics["rows"]
    draft = publish_directory(
        context.directory, root / "record", Kind.PREDICTIONS, "soft", outcome.metrics, details=dict(outcome.details)
    )
    return (
        request.param,
        model,
        publish(context.directory, context.output, draft.manifest.model_dump(exclude={"files"}), outcome.files),
    )


def student(objective: str, tokens: Artifact, soft: Artifact, **mix: Any) -> tuple[LanguageModel, DistilledLanguage]:
    """A new model and its objective, as pretrain builds them."""
    masks: dict[str, Any] = {"masking": "whole_words", "mask_probability": 0.3} if objective == "masked" else {}
    settings: dict[str, Any] = {"mix": mix, "max_steps": 30, "batch_size": 8, "evaluations": 1, "precision": "fp32", **masks}
    config = language_config(objective, **settings, optimizer={"learning_rate": 3e-3})
    inputs = Inputs(tokens=[tokens], teacher=[soft])
    _check_teacher(config, inputs)
    torch.manual_seed(1)
    model, learner = build(config, inputs)
    assert isinstance(learner, DistilledLanguage) and isinstance(model, LanguageModel)
    return model, learner


def test_what_is_kept_is_what_the_teacher_says_of_the_masks_that_the_student_sees(
    answered: tuple[str, Artifact, Artifact], tokens: Artifact, words: PreTrainedTokenizerBase
) -> None:
    objective, origin, soft = answered
    _, learner = student(objective, tokens, soft)
    model = load_base(origin, objective, words, 32).eval()  # type: ignore[arg-type]
    kept, draws = SoftTokens(soft, learner.size), 1 if objective == "causal" else DRAWS
    seen = set()
    for row in range(learner.size):
        for draw in range(draws):
            batch = masked_by(learner.objective, learner.objective.train.rows(np.array([row]))[0], learner.seed, row, draw)
            with torch.inference_mode():
                _, logits_NV = model(**batch, answers=True)
            shares_NV = (logits_NV / TEMPERATURE).log_softmax(-1)
            found = kept.of([row * draws + draw])
            ids_NK, shares_NK = found["teacher_ids"][0], found["teacher_shares"][0]
            if not len(logits_NV):
                continue
            assert ids_NK.shape == (len(logits_NV), KEPT)
            torch.testing.assert_close(shares_NV.gather(1, ids_NK), shares_NK, atol=5e-3, rtol=1e-3)
            assert (shares_NK[:, -1] <= shares_NK[:, 0]).all() and (shares_NK[:, 0] == shares_NV.max(1).values.half()).all()
            rest_N = 1 - shares_NV.gather(1, ids_NK).exp().sum(1)
            torch.testing.assert_close(found["teacher_rest"][0].exp(), rest_N, atol=2e-3, rtol=2e-3)
            seen.add((row, tuple(batch["input_ids"][0].tolist())))
    if objective == "masked":
        assert len(seen) > learner.size, "each draw hides other words"


def test_the_loss_is_the_mix_of_both_by_hand(answered: tuple[str, Artifact, Artifact], tokens: Artifact) -> None:
    objective, _, soft = answered
    model, learner = student(objective, tokens, soft, alpha=0.7)
    batch = learner.batch(np.arange(6), 0, 3)
    own = {key: batch[key] for key in ("input_ids", "documents", "labels")}
    with torch.inference_mode():
        _, logits_NV = model.eval()(**own, answers=True)
        found = float(learner.loss(model, batch))
    labels_N = batch["labels"][batch["labels"] != MISSING]
    hard = float(functional.cross_entropy(logits_NV, labels_N, reduction="sum"))
    counts_B, total, place = (batch["labels"] != MISSING).sum(1).tolist(), 0.0, 0
    for row, count in enumerate(counts_B):
        for target in range(count):
            shares_V = (logits_NV[place].double() / TEMPERATURE).softmax(-1)
            ids_K, kept_K = batch["teacher_ids"][row, target], batch["teacher_shares"][row, target].double()
            rest, ours = float(batch["teacher_rest"][row, target]), float(1 - shares_V[ids_K].sum())
            total += float((kept_K.exp() * (kept_K - shares_V[ids_K].log())).sum()) + np.exp(rest) * (rest - np.log(ours))
            place += 1
    assert found == pytest.approx(0.7 * total * TEMPERATURE**2 + 0.3 * hard, rel=1e-4)
    assert place == len(labels_N) == learner.count(batch)


def test_a_student_comes_to_say_what_its_teacher_says(
    answered: tuple[str, Artifact, Artifact], tokens: Artifact, words: PreTrainedTokenizerBase
) -> None:
    """The teacher's weights are random: nothing but its answers could teach what it says."""
    objective, _, soft = answered
    model, learner = student(objective, tokens, soft, alpha=1.0)
    batch = learner.batch(np.arange(learner.size), 0, 0)
    config = language_config(
        objective, max_steps=60, batch_size=8, evaluations=1, precision="fp32", optimizer={"learning_rate": 5e-3}
    )
    with torch.inference_mode():
        before = float(learner.loss(model.eval(), batch))
    fit(model, learner, config, RunHooks(lambda **figures: None))
    with torch.inference_mode():
        assert float(learner.loss(model.eval(), batch)) < 0.6 * before


def test_alpha_moves_over_the_run_and_draws_are_a_function_of_the_step(
    answered: tuple[str, Artifact, Artifact], tokens: Artifact
) -> None:
    objective, _, soft = answered
    _, learner = student(objective, tokens, soft, alpha=1.0, alpha_end=0.0)
    learner.begin(5)
    assert [float(learner.batch(np.arange(2), 0, step)["alpha"][0]) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    first, again = (learner.batch(np.arange(8), 0, 2) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    draws = np.random.default_rng([0, 2, 4]).integers(learner.soft.draws, size=8)  # as when the run was begun, by older code
    rows = learner.objective.train.rows(np.arange(8))
    wanted = [masked_by(learner.objective, row_T, learner.seed, row, int(draws[row])) for row, row_T in enumerate(rows)]
    assert torch.equal(join_batches(wanted)["labels"], first["labels"])
    shown = {tuple(learner.batch(np.array([0]), 0, step)["input_ids"][0].tolist()) for step in range(12)}
    assert len(shown) == (1 if objective == "causal" else DRAWS)


def test_batches_are_cut_where_those_of_the_objective_may_be(
    answered: tuple[str, Artifact, Artifact], tokens: Artifact
) -> None:
    objective, _, soft = answered
    _, learner = student(objective, tokens, soft)
    assert learner.splits
    learner.objective.splits = False
    assert not DistilledLanguage(learner.objective, soft, learner.mix).splits


def test_answers_for_other_masks_tokens_or_objectives_are_refused(
    answered: tuple[str, Artifact, Artifact], tokens: Artifact, tmp_path: Path
) -> None:
    objective, model, soft = answered
    other = "causal" if objective == "masked" else "masked"
    with pytest.raises(BadInput, match=f"answers by {objective}, the student learns by {other}"):
        _check_teacher(language_config(other), Inputs(tokens=[tokens], teacher=[soft]))
    if objective == "masked":
        with pytest.raises(BadInput, match=r"(?s)mask_probability.*masking"):
            _check_teacher(language_config(objective), Inputs(tokens=[tokens], teacher=[soft]))
    others = publish_language(tmp_path, "masked", documents=["another text of its own."] * 6)
    with pytest.raises(BadInput, match="answered for other tokens"):
        _check_teacher(language_config(objective), Inputs(tokens=[others], teacher=[soft]))
    with pytest.raises(BadInput, match="no teacher to weigh"):
        _check_teacher(PretrainConfig.model_validate({"mix": {"alpha": 0.9}}), Inputs(tokens=[tokens]))
    asked = PredictConfig.model_validate({"language": {"top_k": 10_000}})
    context = Context(str(tmp_path), "story", "soft", str(tmp_path / "soft"), "1")
    with pytest.raises(BadInput, match="the model knows"):
        predict.run(asked, Inputs(model=[model], tokens=[tokens]), context)
    with pytest.raises(BadInput, match="for examples or for tokens, and 0 of them"):
        predict.run(PredictConfig(), Inputs(model=[model]), context)
