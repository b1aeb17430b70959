"""`python -m jobs`: the list of jobs, one line each."""

from jobs.core.stage import STAGES, load_stage

OTHER_JOBS = {
    "pipeline": "run a recipe's steps in order, each as a Ray job, skipping what is done (--plan shows them)",
    "demo": "run a recipe on the cluster that is there or one of its own, and show it live",
}


def main() -> None:
    """Print each job's name and purpose."""
    print("python -m jobs.<job> RECIPE [key=value …]      each has --help\n")
    for name in STAGES:
        print(f"  {name:<10} {load_stage(name).purpose}")
    for name, purpose in OTHER_JOBS.items():
        print(f"  {name:<10} {purpose}")


if __name__ == "__main__":
    main()
