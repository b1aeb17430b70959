"""Checking what a step is given while it already works with it: the step's first work waits for no hash of a large file.

    with Verifying(parents) as verifying:      # what is missing, of another size, or small and damaged is refused here
        outcome = run()
                                               # at the end all is read: ArtifactError names the first that is damaged

Files behind remote URIs are not read here: whoever reads those downloads them, and checks what came (`Artifact.local`).
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from cluster.store import storage
from cluster.store.artifact import Artifact, check_hash, listed_sizes
from cluster.store.hashes import known_sha256, sha256_of

AT_ONCE_BYTES = 128 << 20
"""A tenth of a second: files up to so many bytes together are read before the step begins."""
THREADS = 2


class Verifying:
    """The files of artifacts, being checked in threads from its entry on until it is left."""

    def __init__(self, artifacts: Iterable[Artifact], at_once: float = AT_ONCE_BYTES) -> None:
        self.artifacts, self.at_once = list(artifacts), at_once
        self.pending: list[Future[None]] = []
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="verifying")

    def __enter__(self) -> Self:
        later, left = [], self.at_once
        for artifact, path, size in self._files():
            known = known_sha256(artifact.file(path))
            if known is None and size > left:
                later.append((artifact, path))
                continue
            left -= size if known is None else 0
            check_hash(artifact, path, known or sha256_of(artifact.file(path)))
        self.pending = [self.threads.submit(_read, artifact, path) for artifact, path in later]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for what is still read. Where the step failed and a file is damaged, that is why: it is what is raised."""
        try:
            if error is not None and not isinstance(error, Exception):
                return
            if error is not None and not all(one.done() for one in self.pending):
                print("the step failed; the files that it was given are still being checked", flush=True)
            for one in self.pending:
                one.result()
        finally:
            self.threads.shutdown(cancel_futures=True)

    def _files(self) -> Iterator[tuple[Artifact, str, int]]:
        """Each file of local artifacts with its size, smallest first; ArtifactError where one is missing or of another."""
        found = [(artifact, path, size) for artifact in self.artifacts for path, size in listed_sizes(artifact).items()]
        local = [one for one in found if storage.is_local(one[0].uri)]
        return iter(sorted(local, key=lambda one: one[2]))


def _read(artifact: Artifact, path: str) -> None:
    check_hash(artifact, path, sha256_of(artifact.file(path)))
