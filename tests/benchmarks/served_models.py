"""Models to be served in the benchmarks, with random heads: the speed is the same as after training.

publish_models(directory)        # directory/teacher: MiniLM 6×384. directory/winner: 2 of its layers, vocabulary of the texts
texts()                          # real SMS messages
"""

import csv
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jobs.architectures.models import READ
from jobs.compression.export import Signature, export_onnx
from jobs.compression.quantize import quantize_dynamic_int8
from jobs.compression.vocabulary import prune_vocabulary
from jobs.data.samples import fetch_sample
from jobs.tasks.heads import load_head
from jobs.tasks.supervised import save_model
from jobs.training.student_initialisation import with_layers
from serve.engines.card import Variant, read_card, write_card
from serve.tasks.classification import Classification

TASK = Classification(labels=("ham", "spam"))
MAX_LENGTH = 128
KEPT_LAYERS = (0, 3)


def texts() -> list[str]:
    """All messages of the sample, in their order, each once."""
    with open(fetch_sample("sms_spam") / "sms_spam.csv", encoding="utf-8", newline="") as file:
        return list(dict.fromkeys(row["text"] for row in csv.DictReader(file) if row["text"].strip()))


def publish_models(directory: Path) -> None:
    """Write both models, each as torch fp32, onnx fp32 and int8."""
    torch.manual_seed(0)
    model, tokenizer = load_head("sample:minilm_l6", TASK)
    # Wide enough that answers differ between texts: the faults' check compares them.
    head = model.get_submodule("classifier")
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.normal_(head.weight, std=0.5)
    _publish(model, tokenizer, directory / "teacher")
    student = with_layers(model, KEPT_LAYERS)
    smaller, _ = prune_vocabulary(student, tokenizer, texts())
    _publish(student, smaller, directory / "winner")


def _publish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    save_model(model, tokenizer, TASK, MAX_LENGTH, directory, READ)
    export_onnx(model, directory / "onnx" / "model.onnx", Signature(hidden_states=True))
    quantize_dynamic_int8(directory / "onnx" / "model.onnx", directory / "onnx" / "model.int8.onnx")
    card = read_card(directory)
    made = {
        "onnx": Variant(backend="onnx", file="onnx/model.onnx", precision="fp32", hidden_states=True),
        "int8": Variant(backend="onnx", file="onnx/model.int8.onnx", precision="int8", hidden_states=True),
    }
    write_card(directory, card.model_copy(update={"variants": {**card.variants, **made}, "default": "int8"}))


if __name__ == "__main__":
    publish_models(Path(sys.argv[1]))
