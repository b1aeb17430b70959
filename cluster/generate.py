"""generate: a cluster's files for every cloud, from one description.

python -m cluster.generate             write them from cluster/fleet.yaml
python -m cluster.generate --check     say which are stale; exit code 1 if any is
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from cluster.fleet.clouds.kuberay import cluster_file, dockerfile, job_file, network_file, service_file
from cluster.fleet.clouds.launcher import launcher_file
from cluster.fleet.clouds.providers import PROVIDERS
from cluster.fleet.description import FLEET, ROOT, Fleet, read_fleet
from cluster.fleet.prices import PriceError


def cluster_files(fleet: Fleet) -> dict[str, str]:
    """Every file by its path in the repository."""
    files = {provider.file: launcher_file(fleet, cloud, provider) for cloud, provider in PROVIDERS.items()}
    kuberay = {"cluster": cluster_file, "job": job_file, "service": service_file, "network": network_file}
    files |= {f"cluster/kuberay/{name}.yaml": make(fleet) for name, make in kuberay.items()}
    return files | {"cluster/Dockerfile": dockerfile(fleet)}


def stale_files(fleet: Fleet, root: Path = ROOT) -> list[str]:
    """The files that are not what the description says."""
    wanted = cluster_files(fleet)
    return [path for path, text in wanted.items() if not (root / path).is_file() or (root / path).read_text() != text]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m cluster.generate", description="Write a cluster's files for every cloud.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is stale")
    options = parser.parse_args(arguments)
    try:
        fleet = read_fleet()
    except (ValidationError, ValueError, PriceError) as error:
        print(f"error: {FLEET}: {error}", file=sys.stderr)
        return 2
    stale = stale_files(fleet)
    for path in stale:
        if not options.check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(cluster_files(fleet)[path])
        print(f"{path} is stale: run python -m cluster.generate" if options.check else f"wrote {path}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
