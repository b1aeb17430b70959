"""The ONNX variants of a model, written beside its torch weights and entered in its card.

    figures, details = write_variants(model, directory, config, Material(feeds, judge, score, train))

Every variant is a candidate of its own for `evaluate`. Where int8 may cost no more than `allowed_loss`, first all of it is
quantised dynamically; then the nodes that int8 hurts most stay float, 1, 2, 4, … of them; then int8 by rows is tried, then in
blocks, then static int8; last, where there is something to train with, quantisation-aware training.
"""

import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from jobs.compression.export import Signature, export_onnx
from jobs.compression.forms import FROM_WEIGHTS, KEPT_IN, NAMES, PRODUCTS
from jobs.compression.quantize import (
    Feeds,
    quantize_blockwise_int8,
    quantize_dynamic_int8,
    quantize_static_int8,
)
from jobs.compression.rowwise import quantize_rowwise_int8
from jobs.compression.settings import Method, Quantization
from jobs.compression.worst_nodes import worst_nodes
from jobs.core.metric import Metric
from jobs.core.spaces import QuantizeKind
from serve.engines.base import Engine
from serve.engines.card import Card, Variant, read_card, write_card
from serve.engines.engine import load_engine

ONE_SCALE = ("dynamic", "reduced_range", "unsigned", "trained", "power_of_two")
"""Ways to int8 that scale the activations of a whole batch alike, so that batch mates move an answer."""
SOURCE = "onnx/model.onnx"
MAXIMUM_SHARE = 0.25
"""No more than this share of the nodes is left in float: beyond it int8 brings too little."""


@dataclass(frozen=True)
class Material:
    """What quantising needs besides the model."""

    feeds: Sequence[Feeds]
    """Training examples, one a batch."""
    judge: Callable[[Engine], float]
    """The score of an engine on the validation split."""
    score: Metric
    """Which figure that is."""
    train: Callable[[], PreTrainedModel]
    """A copy of the model, trained with int8's rounding."""


@dataclass(frozen=True)
class Try:
    """One way to int8, and what it cost."""

    kind: str
    """dynamic, rowwise, blockwise, static or trained (dynamic int8 of weights that were trained for it)."""
    excluded: tuple[str, ...]
    """The nodes that stayed float."""
    score: float
    """On the validation split, through the serving engine."""
    loss: float
    """Points (hundredths of the score) that it is worse than float."""
    kept: bool
    """Whether that is within the allowance; then it is the last try."""

    def __str__(self) -> str:
        floats = f", in float: {', '.join(self.excluded)}" if self.excluded else ""
        return f"{self.kind}{floats}: {self.loss:+.2f} points lost"

    def details(self) -> dict[str, Any]:
        """As it stands in the manifest."""
        return asdict(self) | {"excluded": list(self.excluded)}


def write_variants(
    model: PreTrainedModel, directory: Path, config: Quantization, material: Material
) -> tuple[dict[str, float], dict[str, Any]]:
    """Write every variant that the config asks for; returns figures, and what was tried to stay within the allowance."""
    signature = Signature.of(read_card(directory), config.embeddings)
    figures = {"export_difference": export_onnx(model, directory / SOURCE, signature)}
    made = {"onnx": Variant(backend="onnx", file=SOURCE, precision="fp32", hidden_states=config.embeddings)}
    tries: list[Try] = []
    for kind in config.quantize:
        name, precision = NAMES[kind], KEPT_IN.get(kind, "int8")
        file = f"onnx/model.{name}.onnx"
        variant = Variant(backend="onnx", file=file, precision=precision, hidden_states=config.embeddings)
        target, way = directory / variant.file, str(kind)
        if kind == "dynamic" and config.allowed_loss is not None:
            tries = _within(config, directory, target, signature, material)
            if not tries[-1].kept:
                continue
            way = tries[-1].kind
        else:
            quantize(kind, directory / SOURCE, target, material.feeds, config)
        alone = way in ONE_SCALE and config.batching == "same"
        made[name] = variant.model_copy(
            update={"batching": "alone" if alone else "free", "products": PRODUCTS.get(way, "wide")}
        )
        if kind == "power_of_two":
            figures[f"{name}_deflated_bytes"] = float(len(zlib.compress(target.read_bytes())))
    card = read_card(directory)
    preferred = next((NAMES[kind] for kind in config.quantize if NAMES[kind] in made), "onnx")
    write_card(directory, _with(card, made, preferred))
    return figures, {"int8_tries": [one.details() for one in tries]} if tries else {}


def quantize(kind: QuantizeKind, source: Path, target: Path, feeds: Sequence[Feeds], config: Quantization) -> None:
    """Write one quantised form of a float file."""
    if kind == "static":
        quantize_static_int8(source, target, feeds, config.calibration.method)
        return
    FROM_WEIGHTS[kind](source, target)


def int8_within(
    allowed: float,
    source: Path,
    target: Path,
    score: Callable[[Path], float],
    feeds: Sequence[Feeds],
    method: Method,
    trained: Callable[[], Path] | None = None,
    sign: int = 1,
) -> list[Try]:
    """Write to `target` the first int8 form of `source` that costs at most so many points of the score.

    `score` measures a file, and `sign` is -1 where less of it is better; `trained` makes a float file by quantisation-aware
    training. The last try says whether one was found; none is left at `target` otherwise.
    """
    float_score = score(source)
    tries: list[Try] = []
    for kind, excluded, make in _ways(source, target, feeds, method, trained):
        make()
        found = score(target)
        loss = round(100 * sign * (float_score - found), 6)
        tries.append(Try(kind, excluded, found, loss, loss <= allowed))
        if tries[-1].kept:
            return tries
    target.unlink()
    return tries


Way = tuple[str, tuple[str, ...], Callable[[], None]]


def _ways(
    source: Path, target: Path, feeds: Sequence[Feeds], method: Method, trained: Callable[[], Path] | None
) -> Iterator[Way]:
    yield "dynamic", (), partial(quantize_dynamic_int8, source, target)
    worst = worst_nodes(source, feeds)
    most, count = max(1, int(len(worst) * MAXIMUM_SHARE)), 1
    excluded: tuple[str, ...] = ()
    while count <= most:
        excluded = tuple(worst[:count])
        yield "dynamic", excluded, partial(quantize_dynamic_int8, source, target, excluded)
        count *= 2
    yield "rowwise", (), partial(quantize_rowwise_int8, source, target)
    yield "blockwise", (), partial(quantize_blockwise_int8, source, target)
    yield "static", (), partial(quantize_static_int8, source, target, feeds, method)
    yield "static", excluded, partial(quantize_static_int8, source, target, feeds, method, excluded)
    if trained is not None:
        yield "trained", (), lambda: quantize_dynamic_int8(trained(), target)


def _within(config: Quantization, directory: Path, target: Path, signature: Signature, material: Material) -> list[Try]:
    """The tries at an int8 that costs no more than allowed; each is told as it ends."""
    assert config.allowed_loss is not None, "the caller has looked"
    with tempfile.TemporaryDirectory() as place:
        trained = Path(place) / "trained.onnx"

        def train() -> Path:
            export_onnx(material.train(), trained, signature)
            return trained

        tries = int8_within(
            config.allowed_loss,
            directory / SOURCE,
            target,
            partial(_score, directory, material.judge),
            material.feeds,
            config.calibration.method,
            train,
            material.score.sign,
        )
    for one in tries:
        print(f"int8 {one}", flush=True)
    if not tries[-1].kept:
        print(f"int8 is left out: nothing tried was within the allowed {config.allowed_loss:g} points", flush=True)
    return tries


def _score(directory: Path, judge: Callable[[Engine], float], file: Path) -> float:
    """The score of one file, through the engine that would serve it."""
    card = read_card(directory)
    tried = Variant(backend="onnx", file=file.relative_to(directory).as_posix(), precision="int8")
    write_card(directory, _with(card, {"tried": tried}, "tried"))
    try:
        return judge(load_engine(directory, "tried"))
    finally:
        write_card(directory, card)


def _with(card: Card, variants: dict[str, Variant], default: str) -> Card:
    return card.model_copy(update={"variants": {**card.variants, **variants}, "default": default})
