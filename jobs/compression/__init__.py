"""Compression: structured pruning, ONNX export checked against torch, int8 quantisation."""
