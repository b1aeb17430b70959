"""A bag: a model that is no transformer. Features of a text are looked up in a table and summed; a small head may follow.

    bag = load_bag(directory, "bag.safetensors", max_length=10_000, fields=1)
    windows = bag.reader([("Win a prize now",)])
    outputs_NK = bag(windows)

linear: TF-IDF of each feature (each sort's weights together of length 1), times its row, whose columns are the outputs; and a
bias. Of two texts each has rows of its own, what both have has further ones, and so have a few figures of how far they
overlap. static: a vector a feature, of which each text has the weighted mean; of two texts u, v, |u − v| and u · v stand side
by side; then dense layers. All is JSON and safetensors. D columns of the table, N items, K outputs, P texts with a sum.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer

from serve.engines.bag_reading import (
    BagReader,
    BagWindow,
    Cutter,
    GramCutter,
    GramFeatures,
    TokenCutter,
    TokenFeatures,
    Weighting,
)
from serve.engines.bag_table import Table
from serve.engines.card import BAG_FILE, GRAMS_FILE, TOKENIZER_FILE, EngineError
from serve.engines.tokens import as_text

IDF, WEIGHTS, BIAS = "idf", "weights", "bias"
"""Tensors beside the table: of each feature its rarity, or what it learned to count; what every output begins with."""


class Bag(BaseModel):
    """`bag.json`: what a bag's tensors mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    kind: Literal["linear", "static"]
    """linear: the table has the outputs as its columns. static: it has vectors, and dense layers come behind."""
    features: Annotated[GramFeatures | TokenFeatures, Field(discriminator="by")]
    """What a text is cut into."""
    weighting: Weighting
    """tfidf: (1 + log of how often) × idf, each sort's of length 1. mean: all alike. learned: by their weights, together 1."""
    widths: tuple[int, ...] = Field(min_length=1)
    """Columns of the table, then outputs of each dense layer."""
    activation: Literal["relu", "tanh", "gelu"] | None = None
    """Between dense layers; None where there are not two."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.kind == "linear") != (len(self.widths) == 1):
            raise ValueError("a linear bag has no layers behind its table, a static one has")
        if (self.activation is None) == (len(self.widths) > 2):
            raise ValueError("an activation stands between dense layers: give it where there are two, and only there")
        return self


class BagModel:
    """A bag with its tensors, ready to answer."""

    def __init__(self, bag: Bag, cutter: Cutter, tensors: Mapping[str, np.ndarray], fields: int) -> None:
        """ValueError, or KeyError, where they do not fit together."""
        self.bag, self.table, self.bias_K = bag, Table(tensors), tensors.get(BIAS)
        weights_F = tensors[IDF] if bag.weighting == "tfidf" else tensors.get(WEIGHTS)
        self.reader = BagReader(cutter, bag.weighting, weights_F, fields, compared=bag.kind == "linear")
        numbers = range(len(bag.widths) - 1)
        self.layers = [(tensors[f"head.{number}.weight"], tensors[f"head.{number}.bias"]) for number in numbers]
        if self.table.shape != (wanted := (self.reader.rows, bag.widths[0])):
            raise ValueError(f"the table is {self.table.shape}, not {wanted}")

    def __call__(self, windows: Sequence[BagWindow]) -> np.ndarray:
        """float32 outputs_NK."""
        sums_NPD = np.stack([self.sums(window) for window in windows])
        values = _side_by_side(sums_NPD)
        for number, (weight, bias) in enumerate(self.layers):
            values = values @ weight + bias
            if number < len(self.layers) - 1:
                values = ACTIVATIONS[str(self.bag.activation)](values)
        values = values if self.bias_K is None else values + self.bias_K
        return values.astype(np.float32, copy=False)

    def sums(self, window: BagWindow) -> np.ndarray:
        """float32 sums_PD of an item's features; of no features 0."""
        return np.stack([weights @ self.table.rows(rows) for rows, weights in window.parts])

    def described(self) -> str:
        """Its shape in words."""
        features = f"{self.table.shape[0]:,} features" if self.bag.kind == "linear" else f"{self.table.shape[0]:,}"
        return f"linear, {features}" if self.bag.kind == "linear" else f"static, {features} × {self.bag.widths[0]}"


def load_bag(directory: Path, file: str, max_length: int, fields: int) -> BagModel:
    """The bag in a model's directory, with the tensors of one variant; EngineError where something is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        bag = Bag.model_validate_json((directory / BAG_FILE).read_bytes())
        return BagModel(bag, _cutter(directory, bag, max_length), load_file(directory / file), fields)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        wrong = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise EngineError(f"{directory}: {BAG_FILE} or {file} is damaged ({wrong}); publish the model again") from error


def _cutter(directory: Path, bag: Bag, max_length: int) -> Cutter:
    if isinstance(bag.features, GramFeatures):
        listed = None if bag.features.hashed else json.loads((directory / GRAMS_FILE).read_bytes())
        return GramCutter(bag.features, listed, max_length)
    try:
        tokenizer = as_text(Tokenizer.from_file(str(directory / TOKENIZER_FILE)))
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(f"{TOKENIZER_FILE}: {error}") from error
    return TokenCutter(tokenizer, max_length)


def _side_by_side(sums_NPD: np.ndarray) -> np.ndarray:
    """Of one text its own, or of two u, v, |u − v| and u · v."""
    if sums_NPD.shape[1] == 1:
        return sums_NPD[:, 0]
    first_ND, second_ND = sums_NPD[:, 0], sums_NPD[:, 1]
    return np.concatenate([first_ND, second_ND, np.abs(first_ND - second_ND), first_ND * second_ND], axis=1)


def _relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def _gelu(values: np.ndarray) -> np.ndarray:
    """In the form that tanh makes of it (Hendrycks & Gimpel 2016)."""
    return 0.5 * values * (1 + np.tanh(0.7978845608 * (values + 0.044715 * values**3)))


ACTIVATIONS: Mapping[str, Any] = {"relu": _relu, "tanh": np.tanh, "gelu": _gelu}
"""What stands between dense layers, by name."""
