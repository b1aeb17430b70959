"""int8 quantisation of an ONNX model with ONNX Runtime."""

import logging
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def quantize_dynamic_int8(source: Path, target: Path) -> None:
    """Weights and embeddings to int8, per channel; activations are scaled while the model runs.

    A table that is looked up is quantised too: at these sizes embeddings are half the bytes.
    """
    model = onnx.load(str(source))
    # Shapes that the exporter wrote down clash with the quantiser's own shape inference.
    del model.graph.value_info[:]
    logging.getLogger("root").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        plain = Path(directory) / "plain.onnx"
        onnx.save(model, str(plain))
        quantize_dynamic(
            plain, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm", "Gather"]
        )
