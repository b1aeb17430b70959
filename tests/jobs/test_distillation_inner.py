"""Distilling from the teacher's inside, and students made of some of its layers.

pytest tests/jobs/test_distillation_inner.py
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from cluster.store.artifact import Artifact, Kind, open_artifact
from jobs.architectures.introspection import forward_with_states, is_causal, record_attention
from jobs.architectures.layers import LAYER
from jobs.architectures.settings import StudentInitialisation
from jobs.core.config import BadInput
from jobs.core.stage import Context, Inputs, Resources
from jobs.data.clean import item_key
from jobs.data.tokenizer import Tokenizer, train_tokenizer
from jobs.distill import DistillConfig, build, run
from jobs.losses.relations import pairs, relation_kl, relation_mse, relations
from jobs.losses.states import hidden_cosine, hidden_mse
from jobs.tasks.heads import inputs_of
from jobs.tasks.matched import Matched, MatchedStudent
from jobs.tasks.soft_labels import DIRECTORY, SUFFIX, TASK_DETAIL, packed
from jobs.tasks.supervised import save_model
from jobs.training.loop import fit
from jobs.training.ray_train import train_in_process
from jobs.training.settings import Training
from jobs.training.student_initialisation import kept_layers, with_layers
from tests.jobs.pairs import PAIR_TASK, PAIRS, publish_pairs
from tests.jobs.small_models import logits, padded, reloaded, small_model
from tests.jobs.tiny import (
    LABELS,
    MAX_LENGTH,
    MESSAGES,
    publish_directory,
    publish_examples,
    publish_predictions,
    random_ids,
    same_weights,
    save_classifier,
)
from tests.jobs.training_runs import QUICK, Recorded
from tests.jobs.two_workers import together

VOCABULARY = 120
ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "llama", "qwen3")
CAUSAL = ("gpt2", "llama", "qwen3")


def classifier(
    architecture: str,
    layers: int = 4,
    hidden: int = 32,
    heads: int = 4,
    vocabulary: int = VOCABULARY,
    seed: int = 0,
    **more: Any,
) -> PreTrainedModel:
    """A tiny classifier of two labels; the llamas share keys and values among two heads each."""
    torch.manual_seed(seed)
    usual = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64, "initializer_range": 0.2,
    }  # fmt: skip
    shapes: dict[str, dict[str, Any]] = {
        "electra": {**usual, "embedding_size": 16},
        "distilbert": {
            "dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": 2 * hidden, "initializer_range": 0.2,
        },
        "modernbert": {**usual, "local_attention": 8, "reference_compile": False},
        "gpt2": {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": 64, "initializer_range": 0.2},
        "llama": {**usual, "num_key_value_heads": heads // 2},
        "qwen3": {**usual, "num_key_value_heads": heads // 2, "head_dim": 2 * hidden // heads},
    }  # fmt: skip
    shape = {**shapes.get(architecture, usual), **more}
    config = AutoConfig.for_model(architecture, vocab_size=vocabulary, num_labels=2, pad_token_id=0, **shape)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)  # biases and norms too are unlike one another
    return model.eval()


def text() -> dict[str, Tensor]:
    mask_BT = (torch.arange(9)[None] < torch.tensor([9, 4, 7])[:, None]).long()
    return {"input_ids": random_ids(3, 9, VOCABULARY) * mask_BT, "attention_mask": mask_BT}


# Students of some layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_some_layers_make_a_stock_model_with_their_weights(architecture: str, tmp_path: Path) -> None:
    teacher = classifier(architecture, layers=6)
    before = copy.deepcopy(teacher.state_dict())
    student = with_layers(teacher, kept_layers(teacher, StudentInitialisation(layers=(0, 3, 4))))
    student.save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert stock.config.num_hidden_layers == 3 and type(stock) is type(teacher)
    origins = {0: 0, 1: 3, 2: 4}
    named = {
        name: name
        if (found := LAYER.search(name)) is None
        else name.replace(f".{found[1]}.", f".{origins[int(found[1])]}.", 1)
        for name in stock.state_dict()
    }
    assert set(named.values()) == {n for n in before if (f := LAYER.search(n)) is None or int(f[1]) in origins.values()}
    assert all(torch.equal(value, before[named[name]]) for name, value in stock.state_dict().items())
    assert {int(found[1]) for name in named.values() if (found := LAYER.search(name))} == {0, 3, 4}
    assert same_weights(before, teacher.state_dict()) == 0, "the teacher stays whole"
    with torch.no_grad():
        torch.testing.assert_close(stock(**text()).logits, student(**text()).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2"])
def test_what_goes_through_the_kept_layers_is_what_the_teacher_says_of_them(architecture: str) -> None:
    """Layers 0 and 1 of the student are 0 and 1 of the teacher: their outputs are the teacher's."""
    teacher = classifier(architecture)
    student = with_layers(teacher, (0, 1, 3))
    with torch.no_grad():
        ours, theirs = forward_with_states(student, **text())[1], forward_with_states(teacher, **text())[1]
    assert len(ours.hidden) == 3 and len(theirs.hidden) == 4
    for place in (0, 1):
        torch.testing.assert_close(ours.hidden[place], theirs.hidden[place])
    assert not torch.allclose(ours.hidden[2], theirs.hidden[2], atol=1e-3)


@pytest.mark.parametrize(("every", "kept"), [(2, (0, 2, 4)), (3, (0, 3)), (7, (0,))])
def test_every_nth_layer(every: int, kept: tuple[int, ...]) -> None:
    assert kept_layers(classifier("bert", layers=6, hidden=8, heads=2), StudentInitialisation(every=every)) == kept


def test_modernbert_keeps_each_layers_kind_of_attention() -> None:
    teacher = classifier("modernbert", layers=6)
    student = with_layers(teacher, (0, 1, 3))
    assert student.config.layer_types == [teacher.config.layer_types[layer] for layer in (0, 1, 3)]


def test_layers_that_cannot_be_taken_are_refused() -> None:
    with pytest.raises(BadInput, match=r"student\.layers = \[0, 4\]: the base has 4 layers, 0 to 3"):
        kept_layers(classifier("bert"), StudentInitialisation(layers=(0, 4)))
    with pytest.raises(BadInput, match="not all alike.*Keep layer 0 as the first"):
        with_layers(classifier("modernbert"), (1, 2))
    with pytest.raises(BadInput, match="no single stack of layers"):
        kept_layers(classifier("albert"), StudentInitialisation(every=2))


@pytest.mark.parametrize(("architecture", "layers"), [("t5-gated", (0,)), ("t5", (1,)), ("mt5", (0, 1))])
def test_an_encoder_decoder_keeps_these_layers_of_both_stacks(
    architecture: str, layers: tuple[int, ...], tmp_path: Path
) -> None:
    """T5's table of position biases comes along where layer 0 does not."""
    teacher: Any = small_model(architecture)
    student: Any = with_layers(teacher, layers)
    assert (len(student.encoder.block), len(student.decoder.block)) == (len(layers), len(layers))
    stock = reloaded(student, architecture, tmp_path)
    ids_BT, mask_BT = padded()
    with torch.no_grad():
        torch.testing.assert_close(logits(stock, ids_BT, mask_BT), logits(student, ids_BT, mask_BT))
    inside = [
        (one.decoder.block[place].layer[-1], one.encoder.block[place].layer[0])
        for one, place in ((student, 0), (teacher, layers[0]))
    ]
    for ours, theirs in zip(*inside, strict=True):
        own, given = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(value, given[name]) for name, value in own.items() if name in given)
    assert kept_layers(teacher, StudentInitialisation(every=2)) == (0, 2), "of the deeper stack"
    with pytest.raises(BadInput, match="one of its stacks has none of these layers"):
        with_layers(teacher, (2,))


def test_an_architecture_that_is_not_in_the_table_is_shortened_where_it_has_one_stack(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "mpnet", vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    student = with_layers(AutoModelForSequenceClassification.from_config(config), (0, 2))
    student.save_pretrained(tmp_path)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_hidden_layers == 2


# Looking inside


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recorded_model_computes_what_it_did_and_shows_its_attention(architecture: str, tmp_path: Path) -> None:
    model = classifier(architecture)
    with torch.no_grad():
        wanted = model(**text(), output_attentions=True, output_hidden_states=True)
        record_attention(model)
        output, inner = forward_with_states(model, **text())
        assert torch.equal(output.logits, wanted.logits) and torch.equal(model(**text()).logits, wanted.logits)
    assert len(inner.heads) == len(inner.hidden) == 4
    assert all(torch.equal(f, w) for f, w in zip((inner.embedding, *inner.hidden), wanted.hidden_states, strict=True))
    real = pairs(text()["attention_mask"], is_causal(model))[:, None]
    assert is_causal(model) == (architecture in CAUSAL)
    for heads, attention in zip(inner.heads, wanted.attentions, strict=True):
        shares = relations(heads.query, heads.key, 4).masked_fill(~real, -1e9).softmax(-1)
        if architecture == "modernbert":
            # Its lower layers read a window only, which the scores do not know; within it they are in proportion.
            continue
        torch.testing.assert_close(shares * real, attention * real, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    assert "recorded" not in (tmp_path / "config.json").read_text()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**text()).logits, wanted.logits, atol=1e-4, rtol=0)


# Matching


class Made:
    """Examples, a teacher with its soft labels, a smaller student; and what distill makes of them."""

    def __init__(self, root: Path, tokenizer: PreTrainedTokenizerBase, heads: int = 2) -> None:
        self.tokenizer, self.root = tokenizer, root
        self.examples = publish_examples(root, {"train": MESSAGES[:58], "validation": MESSAGES[58:]})
        soft = {text: [2.0, -1.0] if label == "ham" else [-1.5, 2.5] for text, label in MESSAGES}
        self.soft = publish_predictions(root, soft)
        size = len(tokenizer)
        self.teacher = self.model("teacher", classifier("bert", hidden=48, vocabulary=size, seed=1))
        self.base = self.model("base", classifier("bert", layers=2, heads=heads, vocabulary=size))

    def model(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> Artifact:
        draft = self.root / f"{name}-draft"
        save_classifier(model, tokenizer or self.tokenizer, LABELS, draft)
        return publish_directory(draft, self.root / name, Kind.MODEL, step=name)

    def inputs(self, **more: list[Artifact]) -> Inputs:
        own = {"examples": [self.examples], "teacher": [self.soft], "teacher_model": [self.teacher], "init": [self.base]}
        return Inputs({**own, **more})

    def config(self, match: Mapping[str, Any], **settings: Any) -> DistillConfig:
        asked = {**QUICK, "max_length": MAX_LENGTH, "dropout": 0.0, "match": match, **settings}
        return DistillConfig.model_validate(asked)

    def build(self, match: Mapping[str, Any], **settings: Any) -> tuple[MatchedStudent, Matched]:
        torch.manual_seed(0)
        model, learner = build(self.config(match, **settings), self.inputs())
        assert isinstance(model, MatchedStudent) and isinstance(learner, Matched)
        return model, learner


@pytest.fixture
def made(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Made:
    return Made(tmp_path, tokenizer)


EVERYTHING: dict[str, Any] = {
    "pop": {"what": "hidden", "student": 0, "teacher": 1, "weight": 2.0},
    "angle": {"what": "hidden", "loss": "cosine", "weight": 0.5},
    "words": {"what": "embedding"},
    "reads": {"what": "query_key", "relation_heads": 8, "weight": 3.0},
    "values": {"what": "value_relation", "student": 1, "teacher": 3, "loss": "mse"},
}


def test_the_loss_is_the_weighted_sum_of_what_is_matched(made: Made) -> None:
    """Each part reckoned anew from stock models' own outputs and weights."""
    model, learner = made.build(EVERYTHING)
    model.eval()
    batch = learner.batch(np.array([3, 40, 7]), 0, 0)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    mask = batch["attention_mask"]
    with torch.no_grad():
        found = float(learner.loss(model, batch))
        ours, theirs = (stock(place, inputs) for place in (made.base, made.teacher))
        widened = {name: projection.weight for name, projection in zip(model.apart, model.projections, strict=True)}
        assert {name: weight.shape for name, weight in widened.items()} == dict.fromkeys(("pop", "angle", "words"), (48, 32))
        parts = {
            "pop": hidden_mse(ours["hidden"][1] @ widened["pop"].T, theirs["hidden"][2], mask),
            "angle": hidden_cosine(ours["hidden"][-1] @ widened["angle"].T, theirs["hidden"][-1], mask),
            "words": hidden_mse(ours["hidden"][0] @ widened["words"].T, theirs["hidden"][0], mask),
            "reads": relation_kl(scores(ours, "query_key", 8), scores(theirs, "query_key", 8), pairs(mask)),
            "values": relation_mse(scores(ours, "value_value", 4), scores(theirs, "value_value", 4), pairs(mask)),
        }
        answers = float(learner.answers.of_answers(ours["logits"], batch))
    assert all(float(part) > 1e-3 for part in parts.values())
    weights = {name: match.get("weight", 1.0) for name, match in EVERYTHING.items()}
    assert found == pytest.approx(answers + sum(weights[name] * float(part) for name, part in parts.items()), rel=1e-4)


@pytest.mark.parametrize(("ours", "theirs"), [("bert", "distilbert"), ("distilbert", "bert")])
def test_of_pairs_each_side_reads_what_it_has_learned_to(
    ours: str, theirs: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The one is told which text a token is of, the other has nothing to tell it by."""
    places = {}
    for name, architecture in (("base", ours), ("teacher", theirs)):
        model = classifier(architecture, layers=2, vocabulary=len(tokenizer))
        save_model(model, tokenizer, PAIR_TASK, MAX_LENGTH, tmp_path / f"{name}-draft", inputs_of(model, PAIR_TASK))
        places[name] = publish_directory(tmp_path / f"{name}-draft", tmp_path / name, Kind.MODEL, step=name)
    examples = publish_pairs(tmp_path, {"train": PAIRS[:40], "validation": PAIRS[40:60]})
    content, _ = packed(PAIR_TASK, [item_key(pair[:2]) for pair in PAIRS[:40]], np.zeros((40, 2), np.float32))
    (tmp_path / "soft-draft" / DIRECTORY).mkdir(parents=True)
    (tmp_path / "soft-draft" / DIRECTORY / f"all{SUFFIX}").write_bytes(content)
    details = {TASK_DETAIL: PAIR_TASK.model_dump(mode="json")}
    soft = publish_directory(tmp_path / "soft-draft", tmp_path / "soft", Kind.PREDICTIONS, details=details)
    given = Inputs(examples=[examples], teacher=[soft], teacher_model=[places["teacher"]], init=[places["base"]])
    asked = {**QUICK, "max_length": MAX_LENGTH, "dropout": 0.0, "match": {"last": {"what": "hidden"}}}
    student, learner = build(DistillConfig.model_validate(asked), given)
    student.eval()
    batch = learner.batch(np.array([3, 30, 7]), 0, 0)
    types: dict[str, dict[str, Tensor]] = {"bert": {"token_type_ids": batch["token_type_ids"]}, "distilbert": {}}
    assert batch["token_type_ids"].any() and isinstance(learner, Matched)
    read = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = float(learner.loss(student, batch))
        outputs = [
            AutoModelForSequenceClassification.from_pretrained(places[name].local()).eval()(
                **read, **types[architecture], output_hidden_states=True
            )
            for name, architecture in (("base", ours), ("teacher", theirs))
        ]
        own, of_teacher = (output.hidden_states[-1] for output in outputs)
        answers = float(learner.answers.of_answers(outputs[0].logits, batch))
    assert found == pytest.approx(answers + float(hidden_mse(own, of_teacher, batch["attention_mask"])), rel=1e-4)


def scores(side: Mapping[str, Any], which: str, heads: int) -> Tensor:
    left, right = side[which][-1]
    return relations(left, right, heads)


def stock(place: Artifact, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Hidden states as transformers gives them, and what BERT's own matrices make of them."""
    model = AutoModelForSequenceClassification.from_pretrained(place.local()).eval()
    output = model(**inputs, output_hidden_states=True)
    layers = [layer.attention.self for layer in model.bert.encoder.layer]
    reads = list(zip(layers, output.hidden_states, strict=False))
    return {
        "logits": output.logits,
        "hidden": output.hidden_states,
        "query_key": [(layer.query(states), layer.key(states)) for layer, states in reads],
        "value_value": [(layer.value(states), layer.value(states)) for layer, states in reads],
    }


@pytest.mark.parametrize("what", ["hidden", "embedding", "attention", "query_key", "value_relation"])
def test_what_is_matched_comes_nearer_and_the_teacher_stays(
    what: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    made = Made(tmp_path, tokenizer, heads=4)
    model, learner = made.build({"it": {"what": what, "weight": 20.0}}, alpha=0.5)
    frozen = copy.deepcopy(learner.teacher.state_dict())
    batch = learner.batch(np.arange(58), 0, 0)

    def apart() -> float:
        with torch.no_grad():
            model.eval()
            whole = float(learner.loss(model, batch))
            learner.matches = {"it": learner.matches["it"].model_copy(update={"weight": 0.0})}
            rest = float(learner.loss(model, learner.batch(np.arange(58), 0, 0)))
            learner.matches = {"it": learner.matches["it"].model_copy(update={"weight": 20.0})}
            return whole - rest

    start = apart()
    settings = Training.model_validate({**QUICK, "epochs": 15})
    fit(model, learner, settings, Recorded())
    assert apart() < 0.6 * start
    assert same_weights(frozen, learner.teacher.state_dict()) == 0
    assert not any(weight.requires_grad for weight in learner.teacher.parameters()) and not learner.teacher.training


def test_weights_of_matches_move_over_the_run(made: Made) -> None:
    _, learner = made.build({"a": {"what": "hidden", "weight": 4, "weight_end": 0}, "b": {"what": "embedding"}})
    learner.begin(5)
    assert [learner.batch(np.arange(2), 0, step)["match"].tolist() for step in (0, 1, 4)] == [
        [[4.0, 1.0]] * 2, [[3.0, 1.0]] * 2, [[0.0, 1.0]] * 2,
    ]  # fmt: skip


def test_a_decoders_tokens_are_compared_with_earlier_ones_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    made = Made(tmp_path, tokenizer)
    shape: dict[str, Any] = {"vocabulary": len(tokenizer)}
    teacher = made.model("causal", classifier("llama", **shape, seed=1))
    student = made.model("small", classifier("gpt2", **shape, layers=2, hidden=16, heads=2))
    config = made.config({"reads": {"what": "query_key", "relation_heads": 4}, "last": {"what": "hidden"}})
    model, learner = build(config, made.inputs(teacher_model=[teacher], init=[student]))
    assert isinstance(learner, Matched) and learner.causal
    loss = learner.loss(model, learner.batch(np.arange(8), 0, 0))
    loss.backward()
    assert torch.isfinite(loss) and all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_a_killed_matched_run_ends_with_the_same_weights(made: Made, tmp_path: Path) -> None:
    """With dropout, projections, moving weights; the projections' moments are in the checkpoint too."""
    match = {**EVERYTHING, "pop": {**EVERYTHING["pop"], "weight_end": 0.0}}
    settings: dict[str, Any] = {"dropout": 0.2, "max_steps": 9, "checkpoint_steps": 4, "temperature_end": 1, "average": 0.9}

    def through(hooks: Recorded, spoil: bool = False) -> dict[str, Tensor]:
        model, learner = made.build(match, **settings)
        if spoil:
            for weight in model.parameters():
                torch.nn.init.normal_(weight)
        fit(model, learner, made.config(match, **settings), hooks)
        return model.state_dict()

    whole = through(Recorded())
    with pytest.raises(KeyboardInterrupt):
        through(Recorded(tmp_path / "state.pt", dies_at=7))
    assert same_weights(whole, through(hooks := Recorded(tmp_path / "state.pt"), spoil=True)) == 0
    assert hooks.progressed[0]["step"] == 5


@pytest.mark.parametrize("extra", [{}, {"adapter": {"rank": 2}}, {"activation_checkpointing": True}])
def test_the_published_student_is_a_stock_model_alone(made: Made, tmp_path: Path, extra: dict[str, Any]) -> None:
    """Also of some layers of the teacher, with adapters, with activations computed twice."""
    config = made.config(EVERYTHING, student={"every": 2}, epochs=2, **extra)
    context = Context(str(tmp_path), "tiny", "student", str(tmp_path / "out"), "a", directory=tmp_path / "model")
    context.directory.mkdir()
    outcome = train_in_process(build, config, made.inputs(init=[made.teacher]), context)
    found, loading = AutoModelForSequenceClassification.from_pretrained(context.directory, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert found.config.num_hidden_layers == 2 and found.config.id2label == {0: "ham", 1: "spam"}
    assert outcome.metrics["parameters"] == sum(weight.numel() for weight in found.parameters())
    base = AutoModelForSequenceClassification.from_pretrained(made.teacher.local()).state_dict()
    moved = [
        name
        for name, value in found.state_dict().items()
        if LAYER.search(name) and not torch.equal(value, base.get(name, value))
    ]
    assert moved, "it learned"


def test_activation_checkpointing_changes_no_gradient(made: Made) -> None:
    """What is matched in the middle of a layer goes through layers that are computed twice."""
    ends = []
    for twice in (False, True):
        model, learner = made.build(EVERYTHING)
        if twice:
            assert isinstance(model.student, PreTrainedModel)
            model.student.gradient_checkpointing_enable({"use_reentrant": False})
        learner.loss(model.train(), learner.batch(np.arange(6), 0, 0)).backward()
        ends.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert ends[0].keys() == dict(model.named_parameters()).keys()
    assert same_weights(ends[0], ends[1]) < 1e-6


# What is refused


def problems(made: Made, match: Mapping[str, Any], **inputs: list[Artifact]) -> dict[str, str]:
    with pytest.raises(BadInput) as caught:
        build(made.config(match), made.inputs(**inputs))
    return {problem.path: f"{problem.reason}. {problem.remedy}" for problem in caught.value.problems}


def test_all_that_cannot_be_matched_is_told_at_once(made: Made) -> None:
    found = problems(
        made,
        {
            "a": {"what": "hidden", "student": 2, "teacher": -5},
            "b": {"what": "attention"},
            "c": {"what": "query_key", "relation_heads": 6},
            "d": {"what": "hidden", "student": -2, "teacher": 3},
        },
    )
    assert found.keys() == {"match.a.student", "match.a.teacher", "match.b.what", "match.c.relation_heads"}
    assert "the student has 2 layers: 0 to 1 from the bottom, -1 to -2 from the top" in found["match.a.student"]
    assert "the teacher has 4 layers: 0 to 3" in found["match.a.teacher"]
    assert "the student has 2 heads, the teacher 4. Use query_key" in found["match.b.what"]
    assert (
        "6 heads do not divide the widths 32 (student) and 48 (teacher). Give one of 1, 2, 4, 8, 16"
        in found["match.c.relation_heads"]
    )


def test_a_teacher_of_another_vocabulary_is_refused(made: Made, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train_tokenizer(
        Tokenizer(train="wordpiece", vocab_size=110), [text for text, _ in MESSAGES], MAX_LENGTH, tmp_path / "other"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    other = made.model("stranger", classifier("bert", vocabulary=len(tokenizer)), tokenizer)
    found = problems(made, {"a": {"what": "hidden"}}, teacher_model=[other])
    assert "its vocabulary is not the student's" in found["inputs.teacher_model"]


def test_inputs_that_do_not_fit_match_are_refused_before_training(made: Made, tmp_path: Path) -> None:
    context = Context(str(tmp_path), "tiny", "student", str(tmp_path / "out"), "a", directory=tmp_path / "model")
    alone = Inputs({key: value for key, value in made.inputs().items() if key != "teacher_model"})
    with pytest.raises(BadInput, match=r"inputs\.teacher_model: match looks into the teacher"):
        run(made.config({"a": {"what": "hidden"}}), alone, context)
    with pytest.raises(BadInput, match="nothing is to match"):
        run(made.config({}), made.inputs(), context)
    tensor = replace(context, resources=Resources(workers=2, parallel="tensor"))
    with pytest.raises(BadInput, match=r"resources\.parallel = 'tensor'.*Use ddp or fsdp"):
        run(made.config({"a": {"what": "hidden"}}), made.inputs(), tensor)
    short = made.model("short", classifier("bert", vocabulary=len(made.tokenizer), max_position_embeddings=16))
    with pytest.raises(BadInput, match="the base, short, has 16 positions"):
        run(made.config({"a": {"what": "hidden"}}), made.inputs(teacher_model=[short]), context)


# Two workers

PLAIN: dict[str, Any] = {
    "max_steps": 6, "epochs": 9, "batch_size": 15, "optimizer": {"name": "sgd", "learning_rate": 0.02},
    "schedule": {"warmup": 0}, "temperature_end": 1.0, "keep": "last",
}  # fmt: skip


def matched_run(root: str, strategy: Any) -> dict[str, Tensor]:
    examples, soft, teacher, base = (
        open_artifact(f"{root}/{name}") for name in ("examples", "predictions", "teacher", "base")
    )
    inputs = Inputs(examples=[examples], teacher=[soft], teacher_model=[teacher], init=[base])
    config = DistillConfig.model_validate({**QUICK, "max_length": MAX_LENGTH, "dropout": 0.0, "match": EVERYTHING, **PLAIN})
    torch.manual_seed(0)
    model, learner = build(config, inputs)
    fitted = fit(model, learner, config, Recorded(), strategy)
    return model.state_dict() if fitted.weights is None else fitted.weights


def work(rank: int, root: str) -> None:
    for strategy in ("ddp", "fsdp"):
        torch.save(matched_run(root, strategy), f"{root}/{strategy}-{rank}.pt")


def test_two_workers_match_what_one_does(made: Made) -> None:
    """Copies and shards; real processes over gloo on loopback."""
    wanted = matched_run(str(made.root), "ddp")
    together("tests.jobs.test_distillation_inner", "work", root=str(made.root))
    for name in ("ddp-0", "ddp-1", "fsdp-0", "fsdp-1"):
        assert same_weights(wanted, torch.load(made.root / f"{name}.pt", weights_only=True)) < 1e-5
