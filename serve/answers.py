"""For code that is still to be moved to serve/tasks."""

from serve.tasks.classification import Answer, LabelProbability, softmax

__all__ = ["Answer", "LabelProbability", "softmax"]
