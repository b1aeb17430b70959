"""What a replica does beside answering: each chore by itself, so that none waits for another, and none ends by its failures.

chores = [start_chore("The access log", 1.0, log.flush), start_chore("The API keys", 10.0, guard.reload, in_thread=True)]
"""

import asyncio
import inspect
import logging
from collections.abc import Callable

LOGGER = logging.getLogger("ray.serve")


def start_chore(what: str, seconds: float, do: Callable[[], object], in_thread: bool = False) -> "asyncio.Task[None]":
    """Do it again and again with so many seconds between; in a thread where it may take a while. A failure is told once.

    Where it gives something to wait for, that is waited for.
    """
    return asyncio.get_running_loop().create_task(_repeat(what, seconds, do, in_thread))


async def _repeat(what: str, seconds: float, do: Callable[[], object], in_thread: bool) -> None:
    failing = False
    while True:
        await asyncio.sleep(seconds)
        try:
            if in_thread:
                await asyncio.to_thread(do)
            elif inspect.isawaitable(done := do()):
                await done
        except Exception:  # noqa: BLE001  whatever it is, it may be over the next time, and the answers go on
            if not failing:
                LOGGER.exception(f"{what}: failed, and is tried again every {seconds:g} s")
            failing = True
        else:
            if failing:
                LOGGER.warning(f"{what}: works again")
            failing = False
