"""Tasks: how labels become targets, which head, which loss, which metrics. One file a task."""
