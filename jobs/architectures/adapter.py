"""LoRA: low-rank matrices beside frozen weights learn instead of them (Hu et al. 2021), and are merged when published.

model = add_adapter(model, Adapter(rank=8))
model = merged(model)            # the stock model again, with the learned difference in its weights
"""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from torch import nn
from transformers import PreTrainedModel

from jobs.architectures.settings import Adapter
from jobs.core.config import BadInput, Problem

if TYPE_CHECKING:
    from peft import PeftModel

QUERY_AND_VALUE = {"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "c_attn", "Wqkv", "query_key_value"}
"""What architectures call the projections that Hu et al. found best to adapt."""


def add_adapter(model: PreTrainedModel, settings: Adapter) -> "PeftModel":
    """The model with adapters; they and the task's head train, all else is frozen. BadInput where no weight has the name."""
    from peft import LoraConfig, get_peft_model

    base = model.base_model
    heads = [name for name, part in model.named_children() if part is not base and list(part.parameters())]
    # peft divides alpha by the rank, whatever number it is; its annotation says int.
    alpha: Any = settings.alpha if settings.alpha is not None else 2 * settings.rank
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(settings, base),
        modules_to_save=heads,
    )
    try:
        return cast("PeftModel", get_peft_model(model, config))
    except ValueError as error:
        known = sorted({name.rpartition(".")[2] for name, part in base.named_modules() if isinstance(part, nn.Linear)})
        reason, remedy = f"it does not fit {type(model).__name__} ({error})", f"Its linear layers are: {', '.join(known)}."
        raise BadInput([Problem("adapter.targets", settings.targets, reason, remedy)]) from error


def _targets(settings: Adapter, base: nn.Module) -> list[str] | str:
    """In peft's words."""
    if settings.targets == "attention":
        there = {name.rpartition(".")[2] for name, _ in base.named_modules()}
        return sorted(there & QUERY_AND_VALUE)
    return "all-linear" if settings.targets == "all" else list(settings.targets)


def has_adapters(model: nn.Module) -> TypeGuard["PeftModel"]:
    """Whether this very module is peft's, which takes a second to import: where one is, someone has imported it."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def stock_of(model: nn.Module) -> PreTrainedModel:
    """The stock model that was given adapters, with them inside; one without adapters is itself."""
    return cast(PreTrainedModel, model.get_base_model() if has_adapters(model) else model)


def merged(model: nn.Module) -> nn.Module:
    """The stock model, with what its adapters learned in its own weights."""
    return cast(nn.Module, model.merge_and_unload()) if has_adapters(model) else model
