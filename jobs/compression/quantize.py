"""Quantisation of an ONNX model with ONNX Runtime: one function a kind, each from a float file to a smaller one.

    quantize_dynamic_int8(source, target, exclude=["node_MatMul_12"])
    quantize_static_int8(source, target, feeds, "minmax")

Only products with a constant matrix, and tables that are looked up, are quantised: those are the weights. Products of two
activations, as in attention, stay float.

K rows and N columns of a matrix.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from jobs.compression.graph import fold_turned, is_large, save
from jobs.compression.settings import Method

Feeds = Mapping[str, np.ndarray]
"""Inputs of a graph by name, one batch."""
QUANTIZED = ["MatMul", "Gemm", "Gather"]
BLOCKS = {4: 32, 8: 64}
"""How many values share a scale, of weights of so many bits and of the activations that they meet."""
INT8_PRODUCTS = 4
"""The accuracy level at which activations of blocks are int8 too, with scales for each block of each row."""
HALF_MOST = float(np.finfo(np.float16).max)
POWERS = 7
"""Magnitudes of power-of-two weights: with their signs and 0 they are 15 values, 4 bits."""
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def quantize_dynamic_int8(source: Path, target: Path, exclude: Sequence[str] = ()) -> None:
    """Weights and embeddings to int8, per channel; activations are scaled while the model runs.

    A table that is looked up is quantised too: at these sizes embeddings are half the bytes. The nodes named in
    `exclude` stay float.
    """
    with plain_file(source) as plain:
        _quantize_dynamic(plain, target, QUANTIZED, exclude)


def quantize_reduced_int8(source: Path, target: Path) -> None:
    """The same with weights of 7 bits: a sum of two products with 8-bit activations fits the 16 bits of x86 without VNNI."""
    with plain_file(source) as plain:
        _quantize_dynamic(plain, target, QUANTIZED, reduce_range=True)


def quantize_unsigned_int8(source: Path, target: Path) -> None:
    """The same with unsigned weights (U8U8): exact everywhere, and slower than signed ones where there is VNNI."""
    with plain_file(source) as plain:
        _quantize_dynamic(plain, target, QUANTIZED, weight_type=QuantType.QUInt8)


def quantize_tables(source: Path, target: Path) -> None:
    """Embeddings alone to int8, of a file as `plain_file` gives it."""
    _quantize_dynamic(source, target, ["Gather"])


def quantize_static_int8(
    source: Path, target: Path, feeds: Sequence[Feeds], method: Method = "minmax", exclude: Sequence[str] = ()
) -> None:
    """Weights and embeddings to int8, per channel; activations have fixed scales, found over these batches (QDQ, U8S8)."""
    # The calibrator prints what it does.
    with plain_file(source) as plain, redirect_stdout(StringIO()):
        quantize_static(
            plain,
            target,
            _Batches(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            # Unsigned: signed activations have no fast kernel on x86.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(exclude),
            calibrate_method=METHODS[method],
            extra_options={
                "MatMulConstBOnly": True,
                # Sums and norms read the products, in float: rounding them too doubles the error and saves no time.
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                # Batch by batch: texts have different lengths, and all intermediate results at once need gigabytes.
                "CalibStridedMinMax": 1,
            },
        )


def quantize_blockwise_int8(source: Path, target: Path) -> None:
    """Weights and activations to int8, in blocks of 64 that share a scale (MatMulNBits); embeddings as in dynamic int8.

    Each row of activations has scales of its own, so that answers are nearly float's and no batch mate moves them. Its
    kernels are made for decoders, which read one row at a time: they add each block up in float, and for many rows take twice
    as long as those of one scale a row (rowwise); without VNNI they are slower than float. accuracy_level 4 has them multiply
    in int8 at all; below it weights become float anew at each call, which takes twice float's time.
    """
    with plain_file(source) as plain:
        looked_up = plain.with_name("looked_up.onnx")
        quantize_tables(plain, looked_up)
        _to_blocks(looked_up, target, 8, ("MatMul",))


def quantize_int4(source: Path, target: Path) -> None:
    """Matrices and embeddings to 4 bits, in blocks of 32 that share a scale (MatMulNBits, GatherBlockQuantized).

    The smallest file. Its speed is nearer to float than to int8, since weights are unpacked while the model runs: it is
    meant for large decoders, whose speed is that of reading their weights.
    """
    with plain_file(source) as plain:
        _to_blocks(plain, target, 4, ("MatMul", "Gather"))


def _quantize_dynamic(
    plain: Path,
    target: Path,
    kinds: list[str],
    exclude: Sequence[str] = (),
    weight_type: QuantType = QuantType.QInt8,
    reduce_range: bool = False,
) -> None:
    quantize_dynamic(
        plain,
        target,
        weight_type=weight_type,
        per_channel=True,
        reduce_range=reduce_range,
        op_types_to_quantize=kinds,
        nodes_to_exclude=_and_parts(exclude),
        use_external_data_format=is_large(onnx.load(str(plain))),
    )


def _to_blocks(source: Path, target: Path, bits: int, kinds: tuple[str, ...]) -> None:
    model = onnx.load(str(source))
    split_gemms(model.graph)
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=bits,
        block_size=BLOCKS[bits],
        is_symmetric=True,
        accuracy_level=INT8_PRODUCTS,
        op_types_to_quantize=kinds,
    )
    with np.errstate(invalid="ignore"):  # A block of zeros (the padding's embedding) is divided by 0, then set to 0.
        quantizer.process()
    save(quantizer.model.model, target)


def quantize_power_of_two(source: Path, target: Path) -> None:
    """Matrices to signed powers of two, one scale a column (Miyashita et al. 2016; Zhou et al. 2017), kept and run as int8.

    ONNX Runtime has no kernels that shift instead of multiplying, so this costs accuracy and gains no speed here. What it
    gains are weights of 15 values: 4 bits each for hardware that shifts, and a file that compresses well.
    """
    model = onnx.load(str(source))
    fold_turned(model.graph)
    matrices = constant_matrices(model)
    for tensor in model.graph.initializer:
        if tensor.name in matrices:
            weight_KN = numpy_helper.to_array(tensor)
            axis = 0 if matrices[tensor.name] else 1
            tensor.CopyFrom(numpy_helper.from_array(to_powers_of_two(weight_KN, axis), tensor.name))
    with tempfile.TemporaryDirectory() as directory:
        rounded = Path(directory) / "rounded.onnx"
        save(model, rounded)
        quantize_dynamic_int8(rounded, target)


def to_powers_of_two(weight_KN: np.ndarray, axis: int = 0) -> np.ndarray:
    """Each weight as 0 or ± scale / 2^k, k = 0 … POWERS - 1, nearest in the logarithm; the scale is its column's largest."""
    scale = np.maximum(np.abs(weight_KN).max(axis=axis, keepdims=True), np.finfo(np.float32).tiny)
    share_KN = np.abs(weight_KN) / scale
    power_KN = np.round(-np.log2(np.maximum(share_KN, 2.0**-99)))
    kept_KN = np.where(power_KN < POWERS, 2.0**-power_KN, 0.0)
    return (np.sign(weight_KN) * kept_KN * scale).astype(np.float32)


def constant_matrices(model: onnx.ModelProto) -> dict[str, bool]:
    """The names of the matrices that activations are multiplied with, and whether K is their first axis."""
    constant = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in constant]
    return {node.input[1]: not transposed(node) for node in products}


def transposed(node: onnx.NodeProto) -> bool:
    """Whether a product takes its matrix as NK."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def split_gemms(graph: onnx.GraphProto) -> None:
    """A Gemm with a constant matrix becomes a product and a sum, in place: blocks know no Gemm, and GPT-2 has nothing else."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        settings = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA", 0)
        if node.op_type != "Gemm" or node.input[1] not in tensors or not plain:
            nodes.append(node)
            continue
        matrix = tensors[node.input[1]]
        if settings.get("transB", 0):
            name = f"{matrix.name}_turned"
            if name not in tensors:
                turned = np.ascontiguousarray(numpy_helper.to_array(matrix).T)
                tensors[name] = numpy_helper.from_array(turned, name)
                graph.initializer.append(tensors[name])
            matrix = tensors[name]
        product = node.output[0] if len(node.input) < 3 else f"{node.output[0]}_product"
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], matrix.name], [product], f"{node.name}_MatMul"))
        if len(node.input) == 3:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}_Add"))
    used = {name for node in nodes for name in node.input}
    stay = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(stay)


def quantize_half(source: Path, target: Path) -> None:
    """Weights kept in 16 bits: half the file, and float's answers and speed, since a session widens them as it is loaded."""
    model = onnx.load(str(source))
    del model.graph.value_info[:]
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        # What masks scores out is the lowest number that there is: it stays so.
        half = np.clip(numpy_helper.to_array(tensor), -HALF_MOST, HALF_MOST).astype(np.float16)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_widened", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    save(model, target)


@contextmanager
def plain_file(source: Path) -> Iterator[Path]:
    """The file as the quantisers take it, and their warnings held back."""
    model = onnx.load(str(source))
    # Shapes that the exporter wrote down clash with the quantisers' own shape inference.
    del model.graph.value_info[:]
    fold_turned(model.graph)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as directory:
            save(model, Path(directory) / "plain.onnx")
            yield Path(directory) / "plain.onnx"
    finally:
        root.setLevel(level)


def _and_parts(names: Sequence[str]) -> list[str]:
    """The dynamic quantiser cuts a Gemm into a product and a sum before it looks for names."""
    return [part for name in names for part in (name, f"{name}_MatMul")]


class _Batches(CalibrationDataReader):
    """Batches as the calibrator asks for them: from one to another."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = feeds
        self.set_range(0, len(feeds))

    def __len__(self) -> int:
        return len(self.feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest = iter(self.feeds[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.rest, None)
        return None if batch is None else dict(batch)
