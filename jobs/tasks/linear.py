"""A linear model of texts: what labels can be told by words and characters alone, in seconds, on one core.

    probabilities_NC = out_of_fold(items, labels_N, classes=2)

TF-IDF of words and pairs of words, and of two to five characters in a row, which tell Chinese words; above it a logistic
regression a label (Fan et al. 2008, "LIBLINEAR"). Features are hashed, so that no vocabulary is held.

C classes, F features, K folds, N items.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

FOLDS = 5
MOST_CHARACTERS_READ = 1_000
"""Of each text, the first."""
CHARACTERS, CHARACTERS_TIMES_MODELS = 5_000_000, 40_000_000
"""What is learned from at most: so much takes a core a minute and 1 GB of memory."""
HASHED = 1 << 20
"""Features of each kind, of which those stay that two items have."""
STRENGTH = 3.0
"""The inverse of the regularisation: of 1, 3 and 10 what finds most wrong labels in the first places."""
PASSES, TOLERANCE = 30, 0.1
_WORD = r"(?u)\b\w+\b"
"""Words of one character too: they are words in Chinese, and many an English one tells (I, u, 2)."""


def out_of_fold(items: Sequence[Sequence[str]], labels_N: np.ndarray, classes: int) -> np.ndarray:
    """probabilities_NC of each item by a model that has not seen it: of FOLDS parts each is told by the others.

    `items` have one text or several; every label is there at least FOLDS times, so that each part's model knows it. What comes
    out hangs on the items and their order alone.
    """
    features_NF = features(items)
    fold_N = folds(labels_N)
    probabilities_NC = np.zeros((len(items), classes))
    for fold in range(FOLDS):
        held = fold_N == fold
        for number in range(1 if classes == 2 else classes):
            told = _probabilities(features_NF, labels_N == (1 if classes == 2 else number), held)
            probabilities_NC[held, 1 if classes == 2 else number] = told
    if classes == 2:
        probabilities_NC[:, 0] = 1 - probabilities_NC[:, 1]
    return probabilities_NC / np.maximum(probabilities_NC.sum(1, keepdims=True), 1e-12)


def affordable(items: Sequence[Sequence[str]], classes: int) -> int:
    """How many of these items, the first, are learned from in a minute; more labels need more time for each."""
    left = min(CHARACTERS, CHARACTERS_TIMES_MODELS // max(1, classes))
    for number, item in enumerate(items):
        left -= sum(min(len(text), MOST_CHARACTERS_READ) for text in item)
        if left < 0:
            return number
    return len(items)


def folds(labels_N: np.ndarray) -> np.ndarray:
    """Which part each item is in: the items of a label are dealt out one by one, so that all parts have as many of each."""
    fold_N = np.zeros(len(labels_N), dtype=np.int64)
    for number in np.unique(labels_N):
        places = np.flatnonzero(labels_N == number)
        fold_N[places] = np.arange(len(places)) % FOLDS
    return fold_N


def features(items: Sequence[Sequence[str]]) -> "sparse.csr_matrix":
    """The features of each item, of all its texts side by side."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    shared = {"n_features": HASHED, "norm": None, "alternate_sign": False, "dtype": np.float32}
    kinds = (
        HashingVectorizer(ngram_range=(1, 2), token_pattern=_WORD, **shared),
        HashingVectorizer(analyzer="char", ngram_range=(2, 5), **shared),
    )
    parts = []
    for field in zip(*items, strict=True):
        texts = [text[:MOST_CHARACTERS_READ] for text in field]
        for kind in kinds:
            counts_NF = kind.transform(texts)
            shared_by = np.bincount(counts_NF.indices, minlength=HASHED)
            shared_F = np.flatnonzero(shared_by > 1)
            if len(shared_F):
                parts.append(TfidfTransformer(sublinear_tf=True).fit_transform(counts_NF[:, shared_F]))
    # Of texts that share nothing a model can still learn which label is frequent.
    return hstack(parts, format="csr") if parts else csr_matrix((len(items), 1), dtype=np.float32)


def _probabilities(features_NF: "sparse.csr_matrix", yes_N: np.ndarray, held: np.ndarray) -> np.ndarray:
    """How likely yes is for each of the held items, by a model of the others."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=STRENGTH, solver="liblinear", dual=True, tol=TOLERANCE, max_iter=PASSES, random_state=0)
    found: np.ndarray = model.fit(features_NF[~held], yes_N[~held]).predict_proba(features_NF[held])[:, 1]
    return found
