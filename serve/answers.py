"""For code that is still to be moved to serve/tasks."""

from serve.probabilities import softmax
from serve.tasks.classification import Answer, LabelProbability

__all__ = ["Answer", "LabelProbability", "softmax"]
