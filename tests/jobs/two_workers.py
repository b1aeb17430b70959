"""One of two processes that train together over gloo on loopback, without Ray.

together(tmp_path, work=name_of_function, arguments={...})
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.connection.embedded import free_ports

START = """
import json, os, sys
from importlib import import_module
from torch import distributed, multiprocessing

module, name, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
work = getattr(import_module(module), name)

def start(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    distributed.init_process_group("gloo")
    work(rank, **arguments)
    distributed.destroy_process_group()

# Forked, so that the libraries are imported once.
multiprocessing.start_processes(start, nprocs=int(os.environ["WORLD_SIZE"]), start_method="fork")
"""


def together(module: str, name: str, workers: int = 2, patience: float = 120, **arguments: Any) -> None:
    """Run a function of a module in so many processes, as `name(rank, **arguments)`; fails as they do.

    `patience`: seconds after which they are taken to hang.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "WORLD_SIZE": str(workers)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", START, module, name, json.dumps(arguments)]
    environment = {**os.environ, **shared}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            _, told = running.communicate(timeout=patience)
            assert running.returncode == 0, told[-3000:]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
