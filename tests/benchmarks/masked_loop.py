"""This project's side of the masked pretraining benchmark: the loop in a plain process, without Ray.

python -m tests.benchmarks.masked_loop DIRECTORY             tokens a second
python -m tests.benchmarks.masked_loop DIRECTORY waited      the share of time spent waiting for data
python -m tests.benchmarks.masked_loop DIRECTORY compiled    tokens a second with torch.compile
python -m tests.benchmarks.masked_loop DIRECTORY compiling   seconds of its first step
"""

import json
import sys
import time

import torch

from cluster.store.artifact import open_artifact
from jobs.objectives.masked import MaskedObjective
from jobs.objectives.target_head import LanguageModel
from jobs.training.loop import fit
from jobs.training.settings import Training
from tests.benchmarks.masked_model import make
from tests.benchmarks.masked_rows import BATCH, LENGTH, STEPS, WARM_UP
from tests.benchmarks.peers import Clock


def main() -> None:
    """Print tokens a second over the steps after warm-up."""
    torch.set_num_threads(1)
    model, tokenizer = make()
    objective = MaskedObjective(open_artifact(sys.argv[1]), tokenizer, probability=0.15)
    clock = Clock()
    settings = Training(epochs=1, batch_size=BATCH, compile=bool({"compiled", "compiling"} & set(sys.argv)))
    began = time.perf_counter()
    fitted = fit(LanguageModel(model), objective, settings, clock)
    if "waited" in sys.argv:
        print(json.dumps(fitted.metrics["waited_for_data"]))
        return
    if "compiling" in sys.argv:
        print(json.dumps(clock.times[0] - began))
        return
    print(json.dumps(STEPS * BATCH * LENGTH / (clock.times[-1] - clock.times[WARM_UP - 1])))


if __name__ == "__main__":
    main()
