"""Spreading one model's training over workers: copies that average gradients (DDP), shards of one (FSDP2), or shards
that compute together (tensor parallel, where transformers has a plan for the architecture).

    parallelism = Parallelism("ddp", settings)
    model, optimizer = parallelism.prepare(model, make)
    state = parallelism.gather(model.state_dict())      # whole tensors, whatever the strategy

What is saved is always whole, so a run may go on with another strategy or another number of workers.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

from jobs.architectures.adapter import has_adapters
from jobs.architectures.layers import LAYER, layer_modules
from jobs.contracts.learning import Batch
from jobs.core.config import BadInput, Problem
from jobs.training.settings import Training

Strategy = Literal["ddp", "fsdp", "tensor"]


class Parallelism:
    """The workers that train one model, and what they have to agree on."""

    def __init__(self, strategy: Strategy, settings: Training, unused: bool) -> None:
        # Accelerate keeps its state per process; a second run in one process may have another precision.
        AcceleratorState._reset_state()
        self.precision = resolve_precision(settings.precision)
        self.settings = settings
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no" if self.precision == "fp32" else self.precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused, broadcast_buffers=False)],
        )
        self.workers, self.device = self.accelerator.num_processes, self.accelerator.device
        self.strategy: Strategy = strategy if self.workers > 1 else "ddp"
        self.sharded = self.strategy != "ddp"
        # Shards that compute together all read the whole batch: to the data they are one worker.
        together = self.strategy == "tensor"
        self.data_rank: int = 0 if together else self.accelerator.process_index
        self.data_workers: int = 1 if together else self.workers

    def prepare(self, model: nn.Module, make: Callable[[nn.Module], Optimizer]) -> tuple[nn.Module, Any]:
        """The model on its device as this strategy has it, and its optimizer."""
        if self.settings.activation_checkpointing:
            _transformer(model).gradient_checkpointing_enable({"use_reentrant": False})
        if self.settings.compile:
            model.compile()
        if not self.sharded:
            return self.accelerator.prepare(model, make(model))
        model.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.workers,))
        if self.strategy == "tensor":
            _cut_matrices(model, mesh)
        else:
            for layer in layer_modules(model):
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model, self.accelerator.prepare(make(model))

    def micro_batches(self, batch: Batch, parts: int) -> list[tuple[Batch, float]]:
        """This worker's rows of a global batch in so many parts, where there are as many rows, and what each part counts.

        All workers make the same number of them, as their passes wait for each other: one that has fewer rows
        fills up with the batch's first row, which counts nothing.
        """
        rows = len(next(iter(batch.values())))
        mine = {key: value[self.data_rank :: self.data_workers].to(self.device) for key, value in batch.items()}
        micro_batches: list[tuple[Batch, float]] = []
        if self.data_rank < rows:
            cut = zip(*(value.chunk(parts) for value in mine.values()), strict=True)
            micro_batches = [(dict(zip(mine, micro_batch, strict=True)), 1.0) for micro_batch in cut]
        # No worker has other numbers of rows than these two; fewer rows may be cut into more parts.
        shares = {share for share in (rows // self.data_workers, -(-rows // self.data_workers)) if share}
        most = max(len(torch.empty(share).chunk(parts)) for share in shares)
        filling = {key: value[:1].to(self.device) for key, value in batch.items()} if len(micro_batches) < most else {}
        return micro_batches + [(filling, 0.0)] * (most - len(micro_batches))

    def accumulating(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: gradients are exchanged at the last one."""
        if self.strategy == "fsdp":
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
            return nullcontext()
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(model)

    def clip(self, model: nn.Module, longest: float) -> float:
        """Shorten the gradient to this length; returns the length that it had."""
        if not self.sharded:
            return float(self.accelerator.clip_grad_norm_(model.parameters(), longest))
        self.accelerator.unscale_gradients()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        # Shards and whole tensors do not go into one kernel.
        kinds = [part for cut in (True, False) if (part := [each for each in gradients if isinstance(each, DTensor) == cut])]
        norm = float(torch.linalg.vector_norm(torch.stack([self.gather(nn.utils.get_total_norm(part)) for part in kinds])))
        for part in kinds:
            torch._foreach_mul_(part, min(1.0, longest / (norm + 1e-6)))
        return norm

    def sum(self, value: Tensor) -> float:
        """The sum over all workers that read different data."""
        return float(value if self.data_workers == 1 else self.accelerator.reduce(value, "sum"))

    def all(self, part: Any) -> list[Any]:
        """What each worker has, in every worker."""
        parts: list[Any] = [part]
        if self.workers > 1:
            parts = [None] * self.data_workers
            dist.all_gather_object(parts, part)
        return parts

    def first(self, value: float) -> float:
        """What the first worker says: clocks differ, and all must do the same."""
        said = torch.tensor(float(value), device=self.device)
        if self.workers > 1:
            dist.broadcast(said, 0)
        return float(said)

    def gather(self, state: Any) -> Any:
        """The state with whole tensors; all workers must call it."""
        if isinstance(state, DTensor):
            return state.full_tensor()
        if isinstance(state, dict):
            return {key: self.gather(value) for key, value in state.items()}
        return [self.gather(value) for value in state] if isinstance(state, list) else state

    def load(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        """Whole tensors become the model's weights."""
        model.load_state_dict(self.shard(weights, model.state_dict()))

    def shard(self, whole: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors cut as those are that they take the place of."""
        return {name: _like(whole[name], value) for name, value in now.items()}

    def moments(self, model: nn.Module, optimizer: Any) -> dict[str, Any]:
        """What the optimizer remembers of each weight, by the weight's name: its own order is the strategy's matter."""
        state = optimizer.state_dict()["state"]
        return {name: self.gather(state[number]) for number, (name, _) in _numbered(model, optimizer) if number in state}

    def load_moments(self, model: nn.Module, optimizer: Any, moments: dict[str, Any]) -> None:
        """Give that back to the optimizer; its settings are those of the recipe, not of the checkpoint."""
        state = {
            number: {
                key: _like(value, weight) if isinstance(value, Tensor) and value.ndim else value
                for key, value in moments[name].items()
            }
            for number, (name, weight) in _numbered(model, optimizer)
            if name in moments
        }
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def reshard(self, model: nn.Module) -> None:
        """Give back what forward passes without a backward one gathered."""
        if self.strategy == "fsdp":
            model.reshard()  # type: ignore[operator]

    def unwrap(self, model: nn.Module) -> None:
        """Take back what Accelerate did to `forward`: the model would go on to compute in the training's precision."""
        if not self.sharded:
            self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _numbered(model: nn.Module, optimizer: Any) -> Iterable[tuple[int, tuple[str, nn.Parameter]]]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    return enumerate((names[id(weight)], weight) for group in optimizer.param_groups for weight in group["params"])


def _cut_matrices(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut the matrices by transformers' own plan for the architecture; BadInput where it has none."""
    transformer, adapters = _transformer(model), any(map(has_adapters, model.modules()))
    if not transformer.tp_plan or adapters:
        what = "adapters" if adapters else type(transformer).__name__
        reason = f"transformers has no tensor-parallel plan for {what}"
        raise BadInput([Problem("resources.parallel", "tensor", reason, "Use ddp or fsdp.")])
    plan = transformer._expand_parallel_plan(dict(transformer.tp_plan))
    if transformer.config.tie_word_embeddings:
        # Cutting one of two tied matrices would untie them: embeddings and head stay whole in each worker.
        plan = {name: style for name, style in plan.items() if LAYER.search(f"{name}.")}
    apply_tensor_parallelism(transformer, mesh, plan)


def _like(value: Tensor, now: Tensor) -> Tensor:
    return distribute_tensor(value, now.device_mesh, now.placements) if isinstance(now, DTensor) else value


def _transformer(model: nn.Module) -> PreTrainedModel:
    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


def computing_in(asked: str) -> AbstractContextManager[Any]:
    """Around forward passes: torch multiplies in auto, fp32 or bf16, as it does in training."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, torch.bfloat16) if resolve_precision(asked) == "bf16" else nullcontext()


def resolve_precision(asked: str) -> str:
    """fp32, bf16 or fp16: auto becomes bf16 where the hardware computes in it."""
    if asked == "fp16" and not torch.cuda.is_available():
        reason = "this worker has no GPU, and CPUs do not train in fp16"
        raise BadInput([Problem("precision", asked, reason, "Use auto, or give resources.gpus.")])
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported() else "fp32"
