"""ANSWER: how a published model answers. Knows no job; may import `cluster`."""
