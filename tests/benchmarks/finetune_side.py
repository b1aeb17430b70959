"""Fine-tuning MiniLM on messages of all lengths: this project's loop, or transformers' Trainer, one process each.

python -m tests.benchmarks.finetune_side loop       this loop as a recipe has it by default
python -m tests.benchmarks.finetune_side defaults   Trainer with its defaults (and the same batch)
python -m tests.benchmarks.finetune_side best       Trainer with length grouping, bf16 and fused AdamW
"""

import json
import sys
import tempfile
from itertools import islice
from typing import Any

import torch

SIDES = ("loop", "defaults", "best")
MODEL, SOURCE = "sample:minilm_l6", "sample:sms_spam"
TEXTS, BATCH, WARM_UP, MAX_LENGTH, SEED = 960, 32, 4, 128, 0


def rows() -> tuple[list[str], list[int]]:
    """The first messages and their labels."""
    from jobs.data.formats import Files
    from jobs.data.sources import resolve
    from jobs.data.units import rows_of

    (file,) = resolve(SOURCE)
    found = [row.values for _, _, rows in rows_of(file, Files(), ["text", "spam"]) for row in rows]
    chosen = list(islice(found, TEXTS))
    return [row["text"] for row in chosen], [int(row["spam"]) for row in chosen]


def model_and_tokenizer(directory: str) -> tuple[Any, Any]:
    """A classifier on the pretrained encoder, as transformers loads it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=2, dtype="float32")
    return model, AutoTokenizer.from_pretrained(directory)


def loop(directory: str) -> list[float]:
    """When each step of this project's loop was done."""
    from pathlib import Path

    from jobs.training.loop import fit
    from jobs.training.settings import Training
    from tests.benchmarks.peers import Clock
    from tests.jobs.tiny import load_classifier, publish_examples, supervised

    texts, labels = rows()
    names = ["ham", "spam"]
    with tempfile.TemporaryDirectory() as scratch:
        examples = publish_examples(
            Path(scratch), {"train": [(t, names[n]) for t, n in zip(texts, labels, strict=True)]}, names
        )
        model, tokenizer = load_classifier(directory, names)
        objective = supervised(examples, tokenizer, names, MAX_LENGTH)
        fit(model, objective, Training(epochs=1, batch_size=BATCH, seed=SEED), clock := Clock())
    return clock.times


def trainer(directory: str, arguments: dict[str, Any]) -> list[float]:
    """When each step of transformers' Trainer was done."""
    import datasets
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from tests.benchmarks.peers import TrainerClock

    model, tokenizer = model_and_tokenizer(directory)
    texts, labels = rows()
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)
    data = datasets.Dataset.from_dict({**encoded, "labels": labels})
    clock = TrainerClock()
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
            **arguments,
        )
        collator = DataCollatorWithPadding(tokenizer)
        Trainer(model, settings, data_collator=collator, train_dataset=data, callbacks=[clock]).train()
    return clock.times


def main() -> None:
    """Print texts a second over the steps after warm-up."""
    from jobs.data.sources import model_directory
    from jobs.training.parallel import resolve_precision

    torch.set_num_threads(1)
    directory, side = model_directory(MODEL), sys.argv[1]
    best = {
        "train_sampling_strategy": "group_by_length",
        "bf16": resolve_precision("auto") == "bf16",
        "optim": "adamw_torch_fused",
    }
    times = loop(directory) if side == "loop" else trainer(directory, best if side == "best" else {})
    print(json.dumps((len(times) - WARM_UP) * BATCH / (times[-1] - times[WARM_UP - 1])))


if __name__ == "__main__":
    main()
