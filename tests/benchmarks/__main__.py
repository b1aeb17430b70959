"""Run the measures and print one JSON line for each: name, value, goal, better, unit, detail.

make bench                  all
make bench BENCH=train      pretraining and fine-tuning against transformers' Trainer, Ray Train against plain processes
make bench BENCH=data       waiting for data, memory of the loader
make bench BENCH=prepare    near duplicates against datasets and datasketch, memory by the size of the text, what is found
make bench BENCH=month      the same recipe when its source has grown by a twentieth: prepare and predict
make bench BENCH=scale      steps on one core and on two, prepare over 100,000 files, the pipeline's own seconds
make bench BENCH=serve      the service against FastAPI, LitServe, BentoML, the bare engine; Ray Serve's ingresses; needs wrk
make bench BENCH=offline    answering for files against the bare engine, on one core each
make bench BENCH=compress   what distilling, pruning and int8 make of MiniLM; the search against eight whole trials
make bench BENCH=front      how fast models answer that are no transformers; with SET=… the front of a set with few labels
make bench BENCH=int8       each int8 form of MiniLM against float ONNX on this kind of processor: speed, points lost, parity
make bench BENCH=unlabelled what texts without a label bring a student, and augmented ones
DATA=DIRECTORY make bench BENCH=pairs       two texts classified together against the loop of an example script
DATA=DIRECTORY SET=… make bench BENCH=kinds each kind of task against such a loop, and its winner against its teacher
"""

import importlib
import json
import sys

GROUPS = (
    *("train", "data", "prepare", "month", "scale", "compress", "int8", "front", "unlabelled", "pairs", "kinds", "serve"),
    "offline",
)


def main() -> int:
    """Run the named group, or all."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    if wanted not in ("all", *GROUPS):
        print(f"BENCH={wanted}: no such group; known are all, {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    for group in GROUPS if wanted == "all" else (wanted,):
        for measure in importlib.import_module(f"tests.benchmarks.{group}").measures():
            print(json.dumps(measure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
