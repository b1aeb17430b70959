"""The training loop: one for every objective. It knows no Ray; hooks say where its figures and checkpoints go.

    fitted = fit(model, objective, Training(epochs=1), hooks)

A step is a function of the weights, the step's number and the seed, so a run that was killed and goes on from a
checkpoint ends with the weights of one that was not.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch import distributed as dist

from jobs.core.config import BadInput, Problem
from jobs.training.objective import Hooks, Objective, State
from jobs.training.optim import learning_rate_factor, make_optimizer
from jobs.training.settings import Training

CURVE_POINTS = 100


@dataclass
class Fitted:
    """What a run came to."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    stopped_early: bool


@dataclass
class _Run:
    """The state of a run besides the weights; all of it is in a checkpoint."""

    step: int = 0
    best: float | None = None
    best_weights: dict[str, Tensor] | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    without_better: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


def fit(model: nn.Module, objective: Objective, settings: Training, hooks: Hooks) -> Fitted:
    """Train the model in place; it ends with its best or last weights, as the settings say."""
    return _Loop(model, objective, settings, hooks).run()


class _Loop:
    def __init__(self, model: nn.Module, objective: Objective, settings: Training, hooks: Hooks) -> None:
        # Accelerate keeps its state per process; a second run in one process may have another precision.
        AcceleratorState._reset_state()
        precision = resolve_precision(settings.precision)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision="no" if precision == "fp32" else precision
        )
        self.settings, self.objective, self.hooks = settings, objective, hooks
        self.inner = model
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model, settings.optimizer))
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.batch_size = min(settings.batch_size, objective.size)
        if self.batch_size < self.world:
            raise ValueError(f"a batch of {self.batch_size} cannot be divided among {self.world} workers; lower workers")
        self.per_epoch = objective.steps_per_epoch(self.batch_size)
        self.total = max(1, round(settings.epochs * self.per_epoch))
        if settings.max_steps is not None:
            self.total = min(self.total, settings.max_steps)
        marks = {round(self.total * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
        self.evaluation_steps = marks if objective.validation_size else set()
        self.log_every = max(1, self.total // CURVE_POINTS)
        self.state = _Run()

    def run(self) -> Fitted:
        self._restore()
        began, saved, last_loss, stopped = time.monotonic(), time.monotonic(), None, self._patience_is_out()
        earlier, before = self.state.seconds, self.state.step
        for indices in self._batches():
            loss = self._step(indices)
            step = self.state.step
            self.state.seconds = earlier + time.monotonic() - began
            if step % self.log_every == 0 or step == self.total:
                last_loss = self._log(loss, (step - before) / (time.monotonic() - began))
            if step in self.evaluation_steps:
                stopped = self._evaluate()
            if self._checkpoint_due(saved) or stopped or step == self.total:
                self.hooks.save(self._state)
                saved = time.monotonic()
            if stopped:
                break
        return self._finish(last_loss, stopped)

    def _batches(self) -> Iterator[np.ndarray]:
        """Global batches from the next step on."""
        while self.state.step < self.total and not self._patience_is_out():
            epoch, done = divmod(self.state.step, self.per_epoch)
            batches = self.objective.epoch(epoch, self.batch_size, self.settings.seed)
            yield from islice(batches, done, min(self.per_epoch, done + self.total - self.state.step))

    def _step(self, indices: np.ndarray) -> Tensor:
        """One update; returns this worker's part of the mean loss."""
        self.model.train()
        step, settings = self.state.step, self.settings
        whole = self.objective.batch(indices, (settings.seed, step))
        count = max(1, self.objective.count(whole))
        mine = {key: value[self.rank :: self.world].to(self.accelerator.device) for key, value in whole.items()}
        torch.manual_seed(hash((settings.seed, step, self.rank)) & 0x7FFFFFFF)
        parts = [
            dict(zip(mine, part, strict=True))
            for part in zip(*(value.chunk(settings.gradient_accumulation) for value in mine.values()), strict=True)
        ]
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts, 1):
            synchronise = number == len(parts)
            with self.accelerator.autocast(), _maybe(not synchronise, self.accelerator.no_sync(self.model)):
                # DDP averages over workers; the loss is a mean over all targets of the global batch.
                loss = self.objective.loss(self.model, part) / count
                self.accelerator.backward(loss * self.world)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.optimizer.learning_rate * learning_rate_factor(step, self.total, settings.schedule)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        return total

    def _log(self, loss: Tensor, rate: float) -> float:
        value = float(self.accelerator.reduce(loss, "sum"))
        if not np.isfinite(value):
            rate_now = self.optimizer.param_groups[0]["lr"]
            raise FloatingPointError(f"the loss is {value} at step {self.state.step} (learning rate {rate_now:.2g}); lower it")
        figures = {"step": self.state.step, "loss": value, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        self.state.curve.append(figures)
        self.hooks.progress({**figures, "steps": self.total, "steps_per_second": round(rate, 3)})
        return value

    def _evaluate(self) -> bool:
        """Measure on the validation split, remember the best; returns whether patience has run out."""
        state, objective = self.state, self.objective
        figures = self._measure()
        score = figures[objective.score]
        better = state.best is None or (score > state.best if objective.mode == "max" else score < state.best)
        state.without_better = 0 if better else state.without_better + 1
        if better:
            state.best, state.best_metrics = score, figures
            if self.settings.keep == "best":
                state.best_weights = {key: value.detach().cpu().clone() for key, value in self.inner.state_dict().items()}
        if state.curve and state.curve[-1]["step"] == state.step:
            state.curve[-1].update(figures)
        else:
            state.curve.append({"step": state.step, **figures})
        self.hooks.evaluated({"step": state.step, "steps": self.total, **figures}, self._state)
        return self._patience_is_out()

    def _patience_is_out(self) -> bool:
        return self.settings.patience is not None and self.state.without_better >= self.settings.patience

    def _measure(self) -> dict[str, float]:
        self.model.eval()
        mine = np.arange(self.objective.validation_size)[self.rank :: self.world]
        with torch.inference_mode(), self.accelerator.autocast():
            part = self.objective.evaluate(self.inner, mine, self.accelerator.device)
        parts: list[Any] = [part]
        if self.world > 1:
            parts = [None] * self.world
            dist.all_gather_object(parts, part)
        return self.objective.measure(parts)

    def _checkpoint_due(self, saved: float) -> bool:
        """Whether to write a checkpoint now; rank 0's clock decides for all."""
        if self.settings.checkpoint_steps is not None:
            return self.state.step % self.settings.checkpoint_steps == 0
        if self.state.step % self.log_every:
            return False
        due = torch.tensor(float(time.monotonic() - saved >= self.settings.checkpoint_seconds), device=self.accelerator.device)
        if self.world > 1:
            dist.broadcast(due, 0)
        return bool(due)

    def _state(self) -> State:
        return {"model": self.inner.state_dict(), "optimizer": self.optimizer.state_dict(), "run": dict(vars(self.state))}

    def _restore(self) -> None:
        state = self.hooks.restore()
        if state is not None:
            self.inner.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.state = _Run(**state["run"])

    def _finish(self, last_loss: float | None, stopped: bool) -> Fitted:
        state = self.state
        # Accelerate has wrapped `forward`: the model would go on to compute in the training's precision.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        metrics = dict(state.best_metrics if self.settings.keep == "best" and state.best_metrics else {})
        if state.best_weights is not None:
            self.inner.load_state_dict(state.best_weights)
        elif state.curve:
            last = next((point for point in reversed(state.curve) if self.objective.score in point), {})
            metrics = {key: value for key, value in last.items() if key not in ("step", "loss", "learning_rate")}
        losses = [point["loss"] for point in state.curve if "loss" in point]
        metrics["train_loss"] = last_loss if last_loss is not None else losses[-1]
        metrics["steps"] = state.step
        metrics["steps_per_second"] = round(state.step / max(state.seconds, 1e-9), 3)
        return Fitted(metrics, state.curve, stopped)


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


def _maybe(condition: bool, context: Any) -> Any:
    from contextlib import nullcontext

    return context if condition else nullcontext()
