"""What runs a model's graph: torch through transformers, or ONNX Runtime. Each is imported only when it is chosen.

    run = OnnxBackend(directory / "onnx/model.onnx", ("logits",), threads=1, device="auto")
    (logits_BC,) = run({"input_ids": ids_BT, "attention_mask": mask_BT})          # float32

Shapes: B batch, T tokens, C classes, D hidden units.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from serve.engines.card import Card, EngineError, Variant
from serve.engines.processor import saturates

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
GPU_PROVIDERS = {
    "cuda": ["CUDAExecutionProvider"],
    # What TensorRT cannot run of a graph goes to CUDA.
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}
KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
HIDDEN = "last_hidden_state"
"""The graph's output that embeddings are made of, where it has one."""
PUBLISH_AGAIN = "Publish the model again"


class Backend(Protocol):
    """A graph ready to run."""

    inputs: frozenset[str]
    embeds: bool
    """Whether it gives hidden states."""

    def __call__(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """int64 arrays of shape BT, by input name → the outputs that were asked for, float32, their first axis B; what the
        graph does not take is left out."""

    def hidden(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """As above → float32 last hidden states_BTD."""


class OnnxBackend:
    """An ONNX graph in an onnxruntime session; it never imports torch."""

    def __init__(
        self,
        file: Path,
        outputs: Sequence[str],
        threads: int,
        device: Device,
        parts: Sequence[str] = (),
        exact: bool = False,
    ) -> None:
        """`parts` name what the graph gives in place of its only output, where it has that in parts; `exact`: open_session."""
        self.session = open_session(file, threads, device, exact)
        self.inputs = frozenset(node.name for node in self.session.get_inputs())
        names = [node.name for node in self.session.get_outputs()]
        # A graph from elsewhere may have its only output whole, and call it otherwise.
        self.parted = bool(parts) and set(parts) <= set(names)
        whole = names[:1] if len(outputs) == 1 and outputs[0] not in names else list(outputs)
        self.outputs = list(parts) if self.parted else whole
        self.embeds = HIDDEN in names
        if missing := sorted(set(self.outputs) - set(names)):
            raise EngineError(f"{file}: its graph gives {', '.join(names)}, and {missing[0]} is needed; export it with that.")
        if unknown := self.inputs - KNOWN_INPUTS:
            raise EngineError(
                f"{file}: its graph wants {', '.join(sorted(unknown))}, which a text does not give; export it without."
            )

    def __call__(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = [array.astype(np.float32, copy=False) for array in self.session.run(self.outputs, self._taken(feeds))]
        return [np.concatenate(found, axis=-1)] if self.parted else found

    def hidden(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        return self.session.run([HIDDEN], self._taken(feeds))[0].astype(np.float32, copy=False)

    def _taken(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array_BT for name, array_BT in feeds.items() if name in self.inputs}


class TorchBackend:
    """A transformers model in torch, on the GPU if there is one and the device is not cpu."""

    embeds = True

    def __init__(self, directory: Path, card: Card, variant: Variant, threads: int, device: Device) -> None:
        import torch
        import transformers

        assert card.task is not None
        file, precision = variant.file, variant.precision

        if device == "cuda" and not torch.cuda.is_available():
            raise EngineError("the device cuda was asked for, and torch sees no GPU here; use auto or cpu")
        if device == "tensorrt":
            raise EngineError("TensorRT runs ONNX graphs, and this is a torch variant; serve an onnx variant, or use cuda")
        types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        if precision not in types:
            raise EngineError(f"torch does not run {precision} here, only {', '.join(types)}; serve an onnx variant instead")
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        try:
            loader = getattr(transformers, card.task.auto_class)
            model, loading = loader.from_pretrained(
                (directory / file).parent,
                config=transformers.AutoConfig.from_pretrained(directory, local_files_only=True),
                dtype=types[precision],
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise EngineError(f"{directory / file}: transformers cannot load it ({error}). {PUBLISH_AGAIN}.") from error
        # transformers fills what is missing with random numbers and only warns.
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:4])
            raise EngineError(f"{directory / file}: these weights are not in it: {missing}. {PUBLISH_AGAIN}.")
        self.model = model.eval().to(self.device)
        self.outputs = card.task.graph_outputs
        # No others than in training: GPT-2 looks the numbers of segments up among its words.
        self.inputs = frozenset(card.inputs) & frozenset(inspect.signature(model.forward).parameters)

    def __call__(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            told = self.model(**self._tensors(feeds))
            return [told[name].float().cpu().numpy() for name in self.outputs]

    def hidden(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            output = self.model(**self._tensors(feeds), output_hidden_states=True)
            states = output.hidden_states if "hidden_states" in output else output.encoder_hidden_states
            return states[-1].float().cpu().numpy()

    def _tensors(self, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(array).to(self.device) for name, array in feeds.items() if name in self.inputs}


def open_session(file: Path, threads: int, device: Device, exact: bool = False) -> "InferenceSession":
    """An ONNX graph in a session of its own; EngineError where it cannot be loaded, or the device is not there.

    Of an `exact` one the int8 products are right on every processor as they are.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin while they wait would take the core from the HTTP server beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not exact and saturates():
        # Answers would become noise. Signed weights are turned to unsigned ones as they are loaded, whose products are exact.
        options.add_session_config_entry("session.x64quantprecision", "1")
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:
        raise EngineError(f"{file}: ONNX Runtime cannot load it ({error}). {PUBLISH_AGAIN}.") from error
    # A provider whose libraries are missing is only warned of, and the CPU takes its place.
    if session.get_providers()[0] != providers[0]:
        raise EngineError(
            f"the device {device} was asked for, and {providers[0]} does not start here; install its libraries or use cpu"
        )
    return session


def _providers(device: Device, available: list[str]) -> list[str]:
    """GPUs only when they are asked for by name: the CPU build of a small graph is often the faster one at batch 1."""
    wanted = GPU_PROVIDERS.get(device, [])
    if missing := [name for name in wanted if name not in available]:
        raise EngineError(
            f"the device {device} was asked for, and this onnxruntime has no {missing[0]}; install onnxruntime-gpu or use cpu"
        )
    return [*wanted, "CPUExecutionProvider"]
