"""How much memory a training step takes, from the model's shape and the step's settings alone. No torch in here.

shape = ModelShape(layers=12, hidden=768, heads=12, feed_forward=3072, vocabulary=30522, positions=512)
training_memory(shape, Load(batch=32, tokens=128, precision="bf16")).total

tests/jobs/test_training_memory.py holds the estimate to real steps, within cluster.fleet.placement's ESTIMATE_FACTOR.

Activations: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.
"""

from dataclasses import dataclass

FLOAT = 4
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "adagrad": 1}
"""Numbers that each optimizer remembers of a weight."""
PROCESS_BYTES = 900 << 20
"""A worker before it has a model: Python, torch, transformers and Ray."""
CONTEXT_BYTES = 600 << 20
"""What CUDA takes on a GPU before it has a model."""
SCORE_MATRICES = 5
"""Matrices of scores that a layer keeps where attention is not fused: softmax, dropout, masks, gradients."""
RESIDUALS = 9
"""Hidden states that a layer keeps in single precision: what goes into norms, residuals and dropout, and its masks."""


@dataclass(frozen=True)
class ModelShape:
    """A transformer's size."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int = 512
    decoder: int = 0
    """Layers of a decoder that attends to the encoder's too."""
    gated: bool = False
    """Whether a third matrix gates the feed-forward layer."""
    queries: int | None = None
    """Width of all heads together, where it is not the hidden width."""
    keys: int | None = None
    """The same of the keys, and of the values, where heads share them."""
    embedding: int | None = None
    """Width of the embeddings, where it is not the hidden width."""

    @property
    def parameters(self) -> int:
        """Weights of its layers and embeddings; heads, norms and biases are small beside them."""
        queries, embedding = self.queries or self.hidden, self.embedding or self.hidden
        attention = 2 * self.hidden * (queries + (self.keys or queries))
        neurons = (2 + self.gated) * self.hidden * self.feed_forward
        layers = self.layers * (attention + neurons) + self.decoder * (2 * attention + neurons)
        widened = embedding * self.hidden if embedding != self.hidden else 0
        return layers + (self.vocabulary + self.positions) * embedding + widened


@dataclass(frozen=True)
class Load:
    """What goes through the model at once in one worker, and how."""

    batch: int
    """Examples of one micro-batch."""
    tokens: int
    """Tokens of each."""
    precision: str = "fp32"
    optimizer: str = "adamw"
    predicted: float = 0.0
    """Share of the tokens for which the whole vocabulary is scored: 1 for causal, the mask's share for masked."""
    fused_attention: bool = False
    """On GPUs attention keeps no matrix of scores."""
    checkpointing: bool = False
    trained: float = 1.0
    """Share of the weights that learn: little with adapters."""
    shards: int = 1
    """Workers that the weights are cut over (fsdp, tensor)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker's training step, by what they hold."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations

    @property
    def state(self) -> int:
        """What a checkpoint holds: weights and moments."""
        return self.weights + self.moments


def training_memory(shape: ModelShape, load: Load) -> Memory:
    """The peak of a step, at the end of the forward pass."""
    owned = shape.parameters // load.shards
    half = 2 if load.precision in ("bf16", "fp16") else FLOAT
    # Autocast keeps a copy of the weights in half precision until the backward pass ends.
    weights = owned * FLOAT + (shape.parameters * half if half < FLOAT else 0)
    learning = int(owned * load.trained)
    return Memory(
        weights=weights,
        gradients=learning * FLOAT,
        moments=learning * FLOAT * MOMENTS[load.optimizer],
        activations=_activations(shape, load, half),
    )


def inference_memory(shape: ModelShape, batch: int, tokens: int) -> int:
    """Bytes of a model that answers: its weights and one layer's work."""
    layer = batch * tokens * (8 * shape.hidden + 2 * shape.feed_forward + 2 * shape.heads * tokens)
    return (shape.parameters + layer) * FLOAT


def _activations(shape: ModelShape, load: Load, half: int) -> int:
    seen = load.batch * load.tokens
    # Kept in the step's precision: what goes into each matrix; in single precision: what goes into the norms and residuals.
    matrices = 5 * shape.hidden + (2 + shape.gated) * shape.feed_forward
    scores = 0 if load.fused_attention else SCORE_MATRICES * shape.heads * load.tokens
    layer = seen * ((matrices + scores) * half + RESIDUALS * shape.hidden * FLOAT)
    depth = shape.layers + shape.decoder
    # The backward pass works on one layer more.
    kept = depth * seen * shape.hidden * FLOAT + 2 * layer if load.checkpointing else (depth + 1) * layer
    # Scores over the vocabulary, their softmax and its gradient, in single precision.
    return int(kept + seen * load.predicted * shape.vocabulary * 3 * FLOAT)
