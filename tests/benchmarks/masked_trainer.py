"""The peer of the masked pretraining benchmark: transformers' Trainer with its MLM collator on grouped text."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from jobs.training.parallel import resolve_precision
from tests.benchmarks.masked_model import make
from tests.benchmarks.masked_rows import BATCH, LENGTH, ROWS, STEPS, WARM_UP
from tests.benchmarks.peers import TrainerClock


class Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """The packed rows as a map-style data set."""

    def __init__(self, path: Path) -> None:
        self.ids_NT = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.ids_NT)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.ids_NT[index].astype(int).tolist()}


def main() -> None:
    """Print tokens a second over the steps after warm-up."""
    torch.set_num_threads(1)
    model, tokenizer = make()
    clock = TrainerClock()
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            bf16=resolve_precision("auto") == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        rows = Rows(Path(sys.argv[1]) / ROWS)
        Trainer(model, arguments, data_collator=collator, train_dataset=rows, callbacks=[clock]).train()
    print(json.dumps(STEPS * BATCH * LENGTH / (clock.times[-1] - clock.times[WARM_UP - 1])))


if __name__ == "__main__":
    main()
