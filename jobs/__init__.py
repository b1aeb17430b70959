"""LEARN: how a model is made and judged. One stage a module; may import `serve` and `cluster`."""
