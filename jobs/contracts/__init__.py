"""What rooms agree on: an objective, a batch, hooks, and how a kind of task is learned."""
