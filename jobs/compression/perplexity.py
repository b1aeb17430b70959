"""How well an exported language model foresees text: its perplexity, through ONNX Runtime as it will write.

    perplexity(OnnxDecoder(file), CausalObjective(tokens, tokenizer))

Documents are read one by one: the exported graph knows no packed rows.

T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator

import numpy as np

from jobs.contracts.learning import MISSING
from jobs.objectives.documents import PADDING
from jobs.objectives.language import LanguageObjective
from serve.engines.decoder import OnnxDecoder

DOCUMENTS = 256
"""Documents of the validation split that are read at most."""


def perplexity(decoder: OnnxDecoder, objective: LanguageObjective, longest: int | None = None) -> float:
    """exp of the mean cross-entropy of the objective's targets in the first documents of the validation split; of each
    the first `longest` tokens, where the model can number no more."""
    total, count = 0.0, 0
    for number, ids_1T in zip(range(DOCUMENTS), _documents(objective), strict=False):
        made = objective.make(ids_1T[:, :longest], np.random.default_rng([number, 2]))
        batch = {key: value.numpy() for key, value in made.items()}
        labels_T = batch["labels"][0]
        asked = np.flatnonzero(labels_T != MISSING)
        if not len(asked):
            continue
        read, written = batch["input_ids"], batch.get("decoder_input_ids", batch["input_ids"])
        cache = decoder.begin(np.ones_like(read), read)
        logits_KV = decoder.read(cache, written, asked.tolist())[0].astype(np.float64)
        highest_K = logits_KV.max(-1)
        whole_K = highest_K + np.log(np.exp(logits_KV - highest_K[:, None]).sum(-1))
        total += float((whole_K - logits_KV[np.arange(len(asked)), labels_T[asked]]).sum())
        count += len(asked)
    return math.exp(min(total / max(1, count), 50))


def _documents(objective: LanguageObjective) -> Iterator[np.ndarray]:
    """Each document of the validation rows as a row of its own, ids_1T; one that two rows share is two."""
    for row in range(objective.validation_size):
        ids_1T = objective.validation.rows(np.array([row]))
        of_1T = objective.documents(ids_1T)
        for document in np.unique(of_1T[of_1T != PADDING]):
            yield ids_1T[of_1T == document][None]
