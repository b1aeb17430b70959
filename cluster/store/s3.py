"""S3 as pyarrow speaks it, but patient: what fails for a while is asked for again for a minute or two.

    PatientS3().get_file_info("bucket/runs/a.json")

Endpoint, region and keys come from the environment of the process that it is used in, also where it was sent from another.
"""

import os
from typing import Any

from pyarrow import fs

ATTEMPTS = 10
"""The SDK waits up to 1, 2, 4, 8, 16 and then 20 s between them, each time a random part: 84 s on average."""
FEW = 2
PASSING = ("NETWORK_CONNECTION", "HTTP status 5", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE")


class PatientS3(fs.S3FileSystem):
    """An S3 file system that outlives half a minute of errors; pyarrow's own gives up after a second, or once pickled."""

    def __init__(self, attempts: int = ATTEMPTS) -> None:
        # fs.FileSystem.from_uri would first ask the cloud for the bucket's region; the environment already says it.
        super().__init__(
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL"),
            allow_bucket_creation=False,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return PatientS3, ()


def passing_trouble(path: str) -> str | None:
    """What keeps an object store from answering just now, if it is of the kind that may pass; asked with little patience."""
    try:
        PatientS3(FEW).get_file_info(path)
    except OSError as error:
        return str(error) if any(word in str(error) for word in PASSING) else None
    return None
