"""The training loop: one for every objective. It knows no Ray; hooks say where its figures and checkpoints go.

    fitted = fit(model, objective, Training(epochs=1), hooks)

A step is a function of the weights, the step's number and the seed, so a run that was killed and goes on from a
checkpoint ends with the weights of one that was not.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from jobs.contracts.learning import Batch
from jobs.contracts.objective import Hooks, Objective, Preempted, State
from jobs.core.config import BadInput, Problem
from jobs.data.training_rows import ahead
from jobs.training.ema import ExponentialMovingAverage
from jobs.training.freeze import Freezing
from jobs.training.hardware import count_flops, keep_freed_memory, memory_bytes, mfu, peak_flops
from jobs.training.optim import learning_rate_factor, make_optimizer, set_learning_rate, shrink
from jobs.training.parallel import Parallelism, Strategy
from jobs.training.settings import Training
from jobs.training.spike_guard import SpikeGuard
from jobs.training.timing import StepClock

CURVE_POINTS = 100
PROGRESS_STEPS = 10
"""Figures are told at least every so many steps."""


@dataclass
class TrainingResult:
    """What a run came to."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]
    stopped_early: bool
    weights: dict[str, Tensor] | None = None
    """The whole weights, where the model itself is left in shards."""


@dataclass
class _RunState:
    """The state of a run besides the weights; all of it is in a checkpoint."""

    step: int = 0
    best: float | None = None
    best_weights: dict[str, Tensor] | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    without_better: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class _GlobalBatch:
    """A global batch."""

    batch: Batch
    targets: float
    tokens: int


def fit(
    model: nn.Module, objective: Objective, settings: Training, hooks: Hooks, strategy: Strategy = "ddp"
) -> TrainingResult:
    """Train the model in place; it ends with its best or last weights, as the settings say."""
    keep_freed_memory()
    return _Loop(model, objective, settings, hooks, strategy).run()


class _Loop:
    def __init__(self, model: nn.Module, objective: Objective, settings: Training, hooks: Hooks, strategy: Strategy) -> None:
        self.settings, self.objective, self.hooks, self.inner = settings, objective, hooks, model
        _check_judged(objective, settings)
        self.score, self.mode = _monitored(objective, settings.monitor)
        self.freezing = Freezing(model, settings.freeze)
        self.parallelism = Parallelism(strategy, settings, unused=settings.freeze.gradual > 0 or objective.skips_weights)
        _check_whole(objective, settings, self.parallelism.data_workers)
        self.model, self.optimizer = self.parallelism.prepare(model, lambda inner: make_optimizer(inner, settings.optimizer))
        self.ema = ExponentialMovingAverage(model, settings.average) if settings.average else None
        self.guard = SpikeGuard(settings.stability)
        self.batch_size = min(settings.batch_size, objective.size)
        if self.batch_size < self.parallelism.data_workers:
            reason = f"a batch of {self.batch_size} cannot be divided among {self.parallelism.data_workers} workers"
            raise BadInput([Problem("batch_size", settings.batch_size, reason, "Raise it, or lower resources.workers.")])
        self.per_epoch = objective.steps_per_epoch(self.batch_size)
        self.total = max(1, round(settings.epochs * self.per_epoch))
        if settings.max_steps is not None:
            self.total = min(self.total, settings.max_steps)
        objective.begin(self.total)
        marks = {round(self.total * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
        self.evaluation_steps = marks if objective.validation_size else set()
        self.log_every = max(1, self.total // CURVE_POINTS)
        self.tell_every = min(self.log_every, PROGRESS_STEPS)
        self.poll_at = 0
        self.flops: float | None = None
        self.state = _RunState()

    def run(self) -> TrainingResult:
        self._restore()
        stopped = self._patience_is_out()
        clock = StepClock(self.state.step, self.state.tokens, self.state.seconds)
        for (step, indices), made in () if stopped else ahead(self._order(), self._make):
            self.state.waited += clock.waited()
            loss, norm = self._step(step, indices, made)
            self.state.seconds = clock.seconds()
            if self.state.step % self.tell_every == 0 or self.state.step == self.total:
                self._log(loss, norm, clock)
            if self.state.step in self.evaluation_steps:
                stopped = self._evaluate()
            preempted = self._preempted(clock)
            if self._checkpoint_due(clock) or preempted or stopped or self.state.step == self.total:
                self.hooks.save(self._state)
                clock.saved()
            if preempted:
                raise Preempted(f"notice was given at step {self.state.step}")
            clock.ready()
            if stopped:
                break
        return self._finish(stopped)

    def _order(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each step to come, counted from 0, with the examples of its global batch."""
        step = self.state.step
        while step < self.total:
            epoch, done = divmod(step, self.per_epoch)
            for place, indices in enumerate(self.objective.epoch(epoch, self.batch_size, self.settings.seed)):
                if place >= done and step < self.total:
                    yield step, indices
                    step += 1

    def _make(self, asked: tuple[int, np.ndarray]) -> _GlobalBatch:
        step, indices = asked
        whole = self.objective.batch(indices, self.settings.seed, step)
        return _GlobalBatch(whole, max(1, self.objective.count(whole)), self.objective.tokens(whole))

    def _step(self, step: int, indices: np.ndarray, made: _GlobalBatch) -> tuple[Tensor, float]:
        """One update; returns this worker's part of the mean loss and the gradient's length."""
        settings, parallelism = self.settings, self.parallelism
        self.freezing.at(self.inner, step, self.total)
        self.model.train()
        torch.manual_seed(hash((settings.seed, step, parallelism.data_rank)) & 0x7FFFFFFF)
        loss = self._counted(made)
        norm = parallelism.clip(self.model, settings.clip_norm)
        rate = settings.optimizer.learning_rate * learning_rate_factor(step, self.total, settings.schedule)
        set_learning_rate(self.optimizer, rate)
        if not self._refused(step, indices, loss, norm, rate):
            self.optimizer.step()
            shrink(self.optimizer.param_groups)
            if self.ema is not None:
                self.ema.update(self.inner)
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        self.state.tokens += made.tokens
        return loss, norm

    def _counted(self, made: _GlobalBatch) -> Tensor:
        """`_backward`; where the device's peak is known, this worker's operations for each token are counted once."""
        if self.flops is not None or peak_flops(self.parallelism.device, self.parallelism.precision) is None:
            return self._backward(made)
        loss, flops = count_flops(lambda: self._backward(made))
        self.flops = flops / max(1, made.tokens)
        return loss

    def _backward(self, made: _GlobalBatch) -> Tensor:
        """Gradients of the mean loss over all targets of the global batch; returns this worker's part of it."""
        parallelism = self.parallelism
        micro_batches = parallelism.micro_batches(made.batch, self.settings.gradient_accumulation)
        total = torch.zeros((), device=parallelism.device)
        for number, (micro_batch, counts) in enumerate(micro_batches, 1):
            with parallelism.accelerator.autocast(), parallelism.accumulating(self.model, number == len(micro_batches)):
                loss = self.objective.loss(self.model, micro_batch) * counts / made.targets
                # The gradients are averaged over workers; the loss is a mean over the targets of all of them.
                parallelism.accelerator.backward(loss * parallelism.data_workers)
            total += loss.detach()
        return total

    def _refused(self, step: int, indices: np.ndarray, loss: Tensor, norm: float, rate: float) -> bool:
        """Whether the step must be skipped; Diverged where that was too often."""
        if self.parallelism.precision == "fp16" and not math.isfinite(norm):
            return False  # The loss scaler skips it and lowers the scale.
        known = self.parallelism.sum(loss) if self.settings.stability.spike is not None else None
        if (reason := self.guard.refuses(step, known, norm)) is not None:
            self.hooks.note(f"step {step} skipped: {reason}")
            self.guard.check(step, reason, indices.tolist(), rate)
        return reason is not None

    def _log(self, loss: Tensor, norm: float, clock: StepClock) -> None:
        value, state = self.parallelism.sum(loss), self.state
        figures = {"step": state.step, "loss": value, "learning_rate": self.optimizer.param_groups[-1]["lr"]}
        if (state.step % self.log_every == 0 or state.step == self.total) and math.isfinite(value):
            state.curve.append(dict(figures))
        speed = clock.since(state.step, state.tokens)
        speed["memory_gb"] = round(memory_bytes(self.parallelism.device) / 1e9, 3)
        rate = (self.flops or 0) * speed["tokens_per_second"]
        if (share := mfu(rate, self.parallelism.device, self.parallelism.precision)) is not None:
            speed["mfu"] = round(share, 4)
        self.hooks.progress({**figures, "gradient_norm": norm, "steps": self.total, **speed})

    def _evaluate(self) -> bool:
        """Measure on the validation split, remember the best; returns whether patience has run out."""
        state = self.state
        with self._judged():
            figures = self._measure()
            score = figures[self.score]
            better = state.best is None or (score > state.best if self.mode == "max" else score < state.best)
            state.without_better = 0 if better else state.without_better + 1
            if better:
                state.best, state.best_metrics = score, figures
                if self.settings.keep == "best":
                    state.best_weights = self._weights()
        if state.curve and state.curve[-1]["step"] == state.step:
            state.curve[-1].update(figures)
        else:
            state.curve.append({"step": state.step, **figures})
        self.hooks.evaluated({"step": state.step, "steps": self.total, **figures}, self._state)
        return self._patience_is_out()

    def _judged(self) -> AbstractContextManager[None]:
        return self.ema.applied(self.inner) if self.ema is not None else nullcontext()

    def _weights(self) -> dict[str, Tensor]:
        return {key: value.detach().cpu().clone() for key, value in self.parallelism.gather(self.inner.state_dict()).items()}

    def _patience_is_out(self) -> bool:
        return self.settings.patience is not None and self.state.without_better >= self.settings.patience

    def _measure(self) -> dict[str, float]:
        self.model.eval()
        size, parallelism = self.objective.validation_size, self.parallelism
        # Shards are gathered at each forward pass, so all workers must make the same number of them.
        mine = np.arange(size) if parallelism.sharded else np.arange(size)[parallelism.data_rank :: parallelism.data_workers]
        with torch.no_grad() if parallelism.sharded else torch.inference_mode(), parallelism.accelerator.autocast():
            part = self.objective.evaluate(self.inner, mine, parallelism.device)
        parallelism.reshard(self.inner)
        return self.objective.measure([part] if parallelism.sharded else parallelism.all(part))

    def _checkpoint_due(self, clock: StepClock) -> bool:
        """Whether to write a checkpoint now; the first worker's clock decides for all."""
        if self.settings.checkpoint_steps is not None:
            return self.state.step % self.settings.checkpoint_steps == 0
        if self.state.step % self.tell_every:
            return False
        return bool(self.parallelism.first(clock.since_save() >= self.settings.checkpoint_seconds))

    def _preempted(self, clock: StepClock) -> bool:
        """Whether notice was given; asked at steps that the first worker's clock chooses, as asking waits for all of them."""
        if self.state.step < self.poll_at or self.state.step == self.total:
            return False
        self.poll_at = self.state.step + int(self.parallelism.first(clock.steps_between_polls(self.state.step)))
        return self.hooks.preempted()

    def _state(self) -> State:
        average = {"values": self.ema.values, "updates": self.ema.updates} if self.ema is not None else None
        moments = self.parallelism.moments(self.inner, self.optimizer)
        state = {"model": self.inner.state_dict(), "moments": moments, "average": average}
        guard = {"mean": self.guard.mean, "seen": self.guard.seen, "skipped": self.guard.skipped}
        return {**self.parallelism.gather(state), "run": dict(vars(self.state)), "guard": guard}

    def _restore(self) -> None:
        if (state := self.hooks.restore()) is None:
            return
        self.parallelism.load(self.inner, state["model"])
        self.parallelism.load_moments(self.inner, self.optimizer, state["moments"])
        if self.ema is not None:
            self.ema.load(self.parallelism.shard(state["average"]["values"], self.ema.values), state["average"]["updates"])
        self.state = _RunState(**state["run"])
        self.guard = SpikeGuard(self.settings.stability, **state["guard"])

    def _finish(self, stopped: bool) -> TrainingResult:
        state = self.state
        self.parallelism.unwrap(self.model)
        metrics = dict(state.best_metrics if self.settings.keep == "best" and state.best_metrics else {})
        if state.best_weights is not None:
            self.parallelism.load(self.inner, state.best_weights)
        else:
            if self.ema is not None:
                self.ema.load_into(self.inner)
            last = next((point for point in reversed(state.curve) if self.score in point), {})
            metrics = {key: value for key, value in last.items() if key not in ("step", "loss", "learning_rate")}
        metrics["train_loss"] = next((point["loss"] for point in reversed(state.curve) if "loss" in point), math.nan)
        metrics |= {"steps": state.step, "steps_per_second": round(state.step / max(state.seconds, 1e-9), 3)}
        metrics["tokens_per_second"] = round(state.tokens / max(state.seconds, 1e-9), 1)
        metrics["waited_for_data"] = round(state.waited / max(state.seconds, 1e-9), 5)
        metrics["steps_skipped"] = len(self.guard.skipped)
        return TrainingResult(metrics, state.curve, stopped, self._weights() if self.parallelism.sharded else None)


def _check_judged(objective: Objective, settings: Training) -> None:
    """BadInput where something hangs on evaluations, and there is nothing to evaluate on."""
    reason, remedy = "there are no validation rows to judge the model on", "Give prepare a validation split, or leave it out."
    given = {key: value for key in ("patience", "monitor") if (value := getattr(settings, key)) is not None}
    if given and not objective.validation_size:
        raise BadInput([Problem(key, value, reason, remedy) for key, value in given.items()])


def _check_whole(objective: Objective, settings: Training, readers: int) -> None:
    """BadInput where batches that must stay whole would be cut: into parts, or among workers that each read their own rows."""
    if objective.splits:
        return
    reason = "a row's loss depends on the other rows of its batch, which would be cut into {}: that is another loss"
    parts, problems = settings.gradient_accumulation, []
    if parts > 1:
        remedy = "Set it to 1; less memory takes a lower batch_size, or activation_checkpointing."
        problems.append(Problem("gradient_accumulation", parts, reason.format("parts"), remedy))
    if readers > 1:
        remedy = "Set it to 1, or resources.parallel to tensor: there all workers read the whole batch."
        problems.append(Problem("resources.workers", readers, reason.format("shares"), remedy))
    if problems:
        raise BadInput(problems)


def _monitored(objective: Objective, name: str | None) -> tuple[str, str]:
    """The figure that says which evaluation is best, and whether more of it is better."""
    if name is None:
        return objective.score, objective.mode
    if name not in objective.measures:
        known = ", ".join(objective.measures)
        raise BadInput([Problem("monitor", name, "this task has no such figure", f"Known here: {known}.")])
    return name, objective.measures[name]
