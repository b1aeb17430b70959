"""int8 with a scale for each row of activations: answers near float's, whatever the batch mates, and on every processor.

    quantize_rowwise_int8(source, target)

A row (a token's activations) is divided by its own largest magnitude and kept in 7 bits, a matrix in 8 with a scale for each
column. Two products of such numbers are at most 2 · 127 · 127 = 32,258 together, and fit the 16 bits in which x86 without
VNNI adds them up: there too it runs as it is, on the fast kernels of signed weights (U8S8).

K rows and N columns of a matrix.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from jobs.compression.graph import save
from jobs.compression.quantize import plain_file, quantize_tables, split_gemms

LEVELS = 63
"""The largest number that a row's activations become; with ZERO added they are 1 … 127."""
ZERO = 64
WEIGHT_LEVELS = 127
CONTRIBUTED = "com.microsoft"
"""Where ONNX Runtime has its product of int8 numbers with a scale for each column."""
STEP, SHIFT, LEAST, LAST = "row_step", "row_zero", "row_least", "row_axis"


def quantize_rowwise_int8(source: Path, target: Path) -> None:
    """Weights and activations to int8, a scale for each row and each column; embeddings as in dynamic int8."""
    with plain_file(source) as plain:
        looked_up = plain.with_name("looked_up.onnx")
        quantize_tables(plain, looked_up)
        model = onnx.load(str(looked_up))
    split_gemms(model.graph)
    _Rewriting(model.graph).rewrite()
    if all(one.domain != CONTRIBUTED for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIBUTED, 1))
    save(model, target)


class _Rewriting:
    """Products with a constant matrix become products of int8 numbers, in place."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.matrices = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
        self.nodes: list[onnx.NodeProto] = []
        self.rows: set[str] = set()
        """Activations that are int8 already: query, key and value read the same ones."""
        self.made: dict[str, onnx.TensorProto] = {}

    def rewrite(self) -> None:
        """All of them."""
        self._constant(STEP, np.array(1 / LEVELS, dtype=np.float32))
        self._constant(SHIFT, np.array(ZERO, dtype=np.uint8))
        self._constant(LEAST, np.array(1e-30, dtype=np.float32))  # A row of zeros is divided by it.
        self._constant(LAST, np.array([-1], dtype=np.int64))
        for node in self.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self.matrices:
                self._product(node)
            else:
                self.nodes.append(node)
        used = {name for node in self.nodes for name in node.input}
        stay = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend([*stay, *(tensor for name, tensor in self.made.items() if name in used)])

    def _product(self, node: onnx.NodeProto) -> None:
        given, matrix, output = node.input[0], node.input[1], node.output[0]
        self._quantize_rows(given)
        self._quantize_columns(matrix)
        inputs = [f"{given}_int8", f"{matrix}_int8", STEP, f"{matrix}_scale", SHIFT]
        shares = f"{output}_of_row"
        self.nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [shares], f"{node.name}_int8", domain=CONTRIBUTED))
        self.nodes.append(helper.make_node("Mul", [shares, f"{given}_largest"], [output], f"{node.name}_scaled"))

    def _quantize_rows(self, name: str) -> None:
        if name in self.rows:
            return
        self.rows.add(name)
        steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
            ("Abs", [name], "size", {}),
            ("ReduceMax", [f"{name}_size", LAST], "most", {"keepdims": 1}),
            ("Max", [f"{name}_most", LEAST], "largest", {}),
            ("Div", [name, f"{name}_largest"], "share", {}),
            ("QuantizeLinear", [f"{name}_share", STEP, SHIFT], "int8", {}),
        )
        for kind, inputs, made, settings in steps:
            self.nodes.append(helper.make_node(kind, inputs, [f"{name}_{made}"], f"{name}_{kind}", **settings))

    def _quantize_columns(self, name: str) -> None:
        if f"{name}_int8" in self.made:
            return
        weight_KN = numpy_helper.to_array(self.matrices[name])
        scale_N = np.maximum(np.abs(weight_KN).max(axis=0), np.finfo(np.float32).tiny) / WEIGHT_LEVELS
        self._constant(f"{name}_int8", np.round(weight_KN / scale_N).astype(np.int8))
        self._constant(f"{name}_scale", scale_N.astype(np.float32))

    def _constant(self, name: str, value: np.ndarray) -> None:
        self.made[name] = numpy_helper.from_array(value, name)
