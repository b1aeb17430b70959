"""The forms that a float ONNX file is made into: what each is called, what makes it, and what an engine must know of it.

FROM_WEIGHTS["rowwise"](source, target)
NAMES["rowwise"]                          # "int8_row", the variant
"""

from collections.abc import Callable
from pathlib import Path

from jobs.compression.quantize import (
    quantize_blockwise_int8,
    quantize_dynamic_int8,
    quantize_half,
    quantize_int4,
    quantize_power_of_two,
    quantize_reduced_int8,
    quantize_unsigned_int8,
)
from jobs.compression.rowwise import quantize_rowwise_int8
from jobs.core.spaces import QuantizeKind
from serve.engines.processor import Products

NAMES: dict[QuantizeKind, str] = {
    "dynamic": "int8",
    "rowwise": "int8_row",
    "reduced_range": "int8_reduced",
    "unsigned": "int8_unsigned",
    "blockwise": "int8_block",
    "static": "int8_static",
    "int4": "int4",
    "power_of_two": "pow2",
    "fp16": "fp16",
}
KEPT_IN: dict[QuantizeKind, str] = {"int4": "int4", "fp16": "fp16"}
"""Of the others it is int8."""
PRODUCTS: dict[str, Products] = {"rowwise": "narrow", "reduced_range": "narrow", "unsigned": "unsigned"}
"""Ways to int8 whose products are exact on x86 without VNNI as they are; those of the others are wide."""
FROM_WEIGHTS: dict[QuantizeKind, Callable[[Path, Path], None]] = {
    "dynamic": quantize_dynamic_int8,
    "rowwise": quantize_rowwise_int8,
    "reduced_range": quantize_reduced_int8,
    "unsigned": quantize_unsigned_int8,
    "blockwise": quantize_blockwise_int8,
    "int4": quantize_int4,
    "power_of_two": quantize_power_of_two,
    "fp16": quantize_half,
}
"""The kinds that need nothing but the weights: no examples."""
