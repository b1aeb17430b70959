"""Which nodes of a float ONNX graph int8 hurts most, found from one run of the float graph.

    worst_nodes(Path("model.onnx"), feeds)          # ["node_MatMul_61", …], the worst first

K rows and N columns of a matrix; M rows of activations, from all texts and positions; V rows of a table.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from jobs.compression.quantize import Feeds, transposed


def worst_nodes(source: Path, feeds: Sequence[Feeds]) -> list[str]:
    """The names of the nodes that dynamic int8 quantises, by how much noise each adds to its own output, most first.

    A product's noise is measured against how much its output varies from row to row: a constant part, however large, says
    nothing.
    """
    model = onnx.load(str(source))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in constants]
    lookups = [n for n in model.graph.node if n.op_type == "Gather" and _is_table(constants.get(n.input[0]))]
    read = [node.input[0] for node in products] + [node.input[1] for node in lookups]
    values = _intermediate(model, sorted({name for name in read if name not in constants}), feeds)
    noise: dict[str, float] = {}
    for node in products:
        matrix = numpy_helper.to_array(constants[node.input[1]])
        noise[node.name] = _product_noise(values[node.input[0]], matrix.T if transposed(node) else matrix)
    for node in lookups:
        ids = values[node.input[1]] if node.input[1] in values else [numpy_helper.to_array(constants[node.input[1]])]
        noise[node.name] = _lookup_noise(np.concatenate([part.reshape(-1) for part in ids]), constants[node.input[0]])
    return sorted(noise, key=lambda name: -noise[name])


def _is_table(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2


def _intermediate(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feeds]) -> dict[str, list[np.ndarray]]:
    """What these values inside the graph are, for each batch."""
    inputs = {value.name for value in model.graph.input}
    inner = [name for name in names if name not in inputs]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in feeds:
        found = dict(zip(inner, session.run(inner, dict(batch)), strict=True)) | dict(batch)
        for name in names:
            values[name].append(np.asarray(found[name]))
    return values


def _product_noise(batches: Sequence[np.ndarray], matrix_KN: np.ndarray) -> float:
    exact, rounded = [], []
    scale_N = np.maximum(np.abs(matrix_KN).max(axis=0), np.finfo(np.float32).tiny) / 127
    rounded_KN = np.round(matrix_KN / scale_N) * scale_N
    for batch in batches:
        rows_MK = batch.reshape(-1, batch.shape[-1])
        low, high = min(0.0, float(rows_MK.min())), max(0.0, float(rows_MK.max()))
        scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
        exact.append(rows_MK @ matrix_KN)
        rounded.append((np.round(rows_MK / scale) * scale) @ rounded_KN)
    exact_MN = np.concatenate(exact)
    return _noise(exact_MN, np.concatenate(rounded), exact_MN.mean(axis=0))


def _lookup_noise(ids: np.ndarray, table: onnx.TensorProto) -> float:
    table_VK = numpy_helper.to_array(table)
    scale = max(float(np.abs(table_VK).max()) / 127, float(np.finfo(np.float32).tiny))
    rows_MK = table_VK[ids]
    # A table of which one row alone is looked up (token types) does not vary, and is needed all the same.
    return _noise(rows_MK, np.round(rows_MK / scale) * scale, mean_N=0)


def _noise(exact_MN: np.ndarray, rounded_MN: np.ndarray, mean_N: np.ndarray | float) -> float:
    signal = float(np.square(exact_MN - mean_N).sum())
    return float(np.square(rounded_MN - exact_MN).sum()) / max(signal, 1e-12)
