"""What one node of a cluster says of itself: an actor that the doctor places on each node.

probe = ray.remote(Probe).options(num_cpus=0, …).remote()
ray.get(probe.examine.remote(storage, peers))
"""

import contextlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil

from cluster.store.storage import StorageError, read_bytes, write_bytes

PACKAGES = ("ray", "torch", "transformers", "tokenizers", "onnxruntime", "pyarrow", "pydantic", "numpy")
MARKER = "marker"
CONNECT_SECONDS = 3.0
SHOW_GPUS = """
import torch
print(torch.__version__, "for CUDA", torch.version.cuda)
for number in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_name(number))
"""


@dataclass(frozen=True)
class NodeReport:
    """One node's answers."""

    hostname: str
    versions: dict[str, str]
    """Of Python and the packages that must agree; packages that are not there are left out."""
    storage_problem: str | None
    """Why the storage cannot be used from here."""
    disk_free: int
    disk_total: int
    """Bytes where Ray and jobs keep temporary files."""
    shared_free: int
    """Bytes free in /dev/shm, where Ray's object store lives."""
    open_files: int
    """How many files a process may open."""
    gpus: tuple[str, ...]
    """The GPUs that torch can use."""
    gpu_problem: str | None
    """Why torch can use no GPU although the driver shows one."""
    driver: str | None
    """Version of the GPU driver; None where there is none."""
    closed: tuple[str, ...]
    """Other nodes' ports that could not be reached."""


class Probe:
    """Looks around on the node that it was placed on."""

    def examine(self, marker: str, own: str, peers: Sequence[tuple[str, str, int]]) -> NodeReport:
        """Everything about this node. The doctor wrote `marker`, the node writes `own`; `peers` are other nodes' ports."""
        gpus, gpu_problem = _gpus()
        disk = shutil.disk_usage(tempfile.gettempdir())
        shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
        return NodeReport(
            hostname=socket.gethostname(),
            versions=_versions(),
            storage_problem=_storage_problem(marker, own),
            disk_free=disk.free,
            disk_total=disk.total,
            shared_free=shared.free if shared else 0,
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            gpus=gpus,
            gpu_problem=gpu_problem,
            driver=_driver(),
            closed=tuple(f"{what} {host}:{port}" for what, host, port in peers if not reachable(host, port)),
        )

    def clock(self) -> float:
        """This node's time."""
        return time.time()

    def outside_addresses(self, port: int) -> list[str]:
        """This node's addresses beyond loopback on which something answers at a port."""
        return outside_addresses(port)


def reachable(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), CONNECT_SECONDS):
        return True
    return False


def outside_addresses(port: int) -> list[str]:
    """This machine's addresses beyond loopback on which something answers at a port."""
    addresses = [
        entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family == socket.AF_INET
    ]
    return sorted(address for address in addresses if not address.startswith("127.") and reachable(address, port))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _storage_problem(marker: str, own: str) -> str | None:
    """Read what the doctor wrote, and write what it will look for."""
    try:
        read_bytes(marker)
    except StorageError as error:
        return f"what another node wrote cannot be read here: {error}"
    try:
        write_bytes(own, b"node")
    except StorageError as error:
        return f"cannot be written from here: {error}"
    return None


def _gpus() -> tuple[tuple[str, ...], str | None]:
    """The GPUs that torch can use, or why it can use none."""
    if _driver() is None:
        return (), None
    # In a process of its own: Ray shows an actor only the GPUs that it was given.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    ran = subprocess.run([sys.executable, "-c", SHOW_GPUS], env=environment, capture_output=True, text=True, check=False)
    built, *names = ran.stdout.strip().split("\n")
    return tuple(names), None if names else f"the driver shows a GPU and torch can use none ({built or ran.stderr[-200:]})"


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout.split("\n")[0].strip() or None if ran.returncode == 0 else None
