"""ONNX files: writing a torch module as one, and having several share their weights.

write_graph(module, "a gpt2 decoder", target, {"input_ids": (ids_BT, {0: FREE, 1: FREE})}, ["logits"])
share_weights([decoder, encoder], decoder.with_name("model.onnx.data"))
"""

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import external_data_helper, numpy_helper

TOLERANCE = 1e-3
"""The most that a logit of an exported model may differ from torch's."""
FREE = torch.export.Dim.DYNAMIC
SMALL = 1024
"""Tensors of fewer bytes stay in the graph: they are shapes and scales, which ONNX Runtime wants to read there."""
LARGE = 1_500_000_000
"""Weights of more bytes are written beside the graph: a protobuf holds 2 GB at most."""
WHOLE_BYTES = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
"""Types whose matrices can be compared transposed; 4-bit ones are packed."""
ALIGNED = 4096
"""Weights begin at multiples of it, so that they can be mapped into memory."""


class ExportError(Exception):
    """The exported model does not say what the torch model says, or there is none."""


def write_graph(
    module: torch.nn.Module,
    named: str,
    target: Path,
    inputs: Mapping[str, tuple[Any, Any]],
    outputs: Sequence[str],
    names: Sequence[str] | None = None,
) -> None:
    """Write a module as an ONNX file, with its weights inside unless they are too large for that.

    `inputs` are the forward's arguments in their order, each with its free dimensions; `names` are the graph's names of
    them, where an argument is a list. ExportError, which calls the module `named`, where torch cannot.
    """
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(
                module,
                tuple(value for value, _ in inputs.values()),
                str(target),
                dynamo=True,
                input_names=list(names or inputs),
                output_names=list(outputs),
                dynamic_shapes={name: free for name, (_, free) in inputs.items()},
                external_data=size > LARGE,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"torch cannot export {named} ({_first_line(error)}); serve the torch variant") from error
    _drop_notes(target)


def is_large(model: onnx.ModelProto) -> bool:
    """Whether its weights have to lie beside the graph."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGE


def save(model: onnx.ModelProto, target: Path) -> None:
    """Write a model, its weights beside it where they are too large for the graph."""
    large = is_large(model)
    onnx.save(model, str(target), save_as_external_data=large, location=f"{target.name}.data" if large else None)


def share_weights(files: Sequence[Path], data: Path) -> None:
    """Move the weights of these graphs into one file beside them, each once: also one that another has transposed.

    ONNX Runtime transposes such a matrix once, when it loads the graph.
    """
    models = [onnx.load(str(file)) for file in files]  # before `data` is written: a large model has its weights there
    places: dict[bytes, tuple[int, int]] = {}
    with data.open("wb") as out:
        for file, model in zip(files, models, strict=True):
            _turn_copies(model.graph)
            for tensor in model.graph.initializer:
                content = tensor.raw_data
                if len(content) < SMALL:
                    continue
                key = hashlib.sha256(content).digest()
                if key not in places:
                    out.seek(-(-out.tell() // ALIGNED) * ALIGNED)
                    places[key] = out.tell(), len(content)
                    out.write(content)
                external_data_helper.set_external_data(tensor, data.name, *places[key])
                tensor.ClearField("raw_data")
            onnx.save(model, str(file))


def fold_turned(graph: onnx.GraphProto) -> None:
    """A matrix that is another one transposed is there by itself again, since quantisers look for matrices alone.

    `share_weights` had it transposed, or the exporter did (of a large table that is both input's and output's).
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    turned = [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in tensors]
    for node in turned:
        matrix = numpy_helper.to_array(tensors[node.input[0]]).T
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), node.output[0]))
        graph.node.remove(node)


def _turn_copies(graph: onnx.GraphProto) -> None:
    """Put a Transpose in place of each matrix that is another one transposed (an output's table tied to the input's)."""
    known: dict[tuple[object, ...], str] = {}
    stay, turned = [], []
    for tensor in graph.initializer:
        if len(tensor.dims) == 2 and len(tensor.raw_data) >= SMALL and tensor.data_type in WHOLE_BYTES:
            matrix = numpy_helper.to_array(tensor)
            other = known.get(_content(matrix.T))
            if other is not None:
                node = onnx.helper.make_node("Transpose", [other], [tensor.name], f"{tensor.name}_turned", perm=[1, 0])
                turned.append(node)
                continue
            known[_content(matrix)] = tensor.name
        stay.append(tensor)
    if turned:
        nodes = [*turned, *graph.node]
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(stay)
        graph.node.extend(nodes)


def _content(matrix: np.ndarray) -> tuple[object, ...]:
    return matrix.shape, matrix.dtype, hashlib.sha256(matrix.tobytes()).digest()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _drop_notes(target: Path) -> None:
    """Take out what the exporter noted of this host: paths and source lines, a large part of a small model's file."""
    model = onnx.load(str(target), load_external_data=False)
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    onnx.save(model, str(target))
