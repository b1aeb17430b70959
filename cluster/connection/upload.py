"""What a job would carry to the cluster: the files of its working directory but for those that .gitignore names.

check_upload(Path("."))      # "293 files, 1.9 MiB"; UploadError if Ray would refuse it, naming the largest files
"""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from cluster.ray_private import most_upload_bytes, visit_upload

MEBIBYTE = 1 << 20


class UploadError(Exception):
    """A working directory is missing or too large to upload; the message names the largest files."""


def upload_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each file that Ray would upload, by path: what .gitignore, .rayignore and Ray's own list leave."""
    root = directory.absolute()
    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root).as_posix()] = path.stat().st_size

    visit_upload(root, note)
    return sizes


def check_upload(directory: Path) -> str:
    """How much goes along, and what of it git does not know; UploadError unless it is there and small enough for Ray."""
    if not directory.is_dir():
        raise UploadError(f"{directory}: no such directory, so there is no code to run a job from; mend --working-dir")
    sizes = upload_sizes(directory)
    total, most = sum(sizes.values()), most_upload_bytes()
    if total < most:
        unknown = sorted(_untracked(directory) & set(sizes))
        more = f"; {len(unknown)} of them are not in git: {_first(unknown, 3)}" if unknown else ""
        return f"{len(sizes)} files, {total / MEBIBYTE:.1f} MiB{more}"
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    listed = ", ".join(f"{path} ({size / MEBIBYTE:.1f} MiB)" for path, size in largest)
    raise UploadError(
        f"{directory} would upload {total / MEBIBYTE:.0f} MiB, and Ray takes {most / MEBIBYTE:.0f} MiB "
        f"at most. Largest: {listed}. Name them in .gitignore or .rayignore; data belongs in the storage, not beside the code"
    )


def _untracked(directory: Path) -> set[str]:
    """Files that git neither tracks nor ignores; nothing where there is no git or no repository."""
    command = ["git", "-C", str(directory), "ls-files", "--others", "--exclude-standard", "-z"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return set()
    return set(found.stdout.split("\0")) - {""} if found.returncode == 0 else set()


def _first(names: Iterable[str], count: int) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", …" if len(listed) > count else "")
