"""A cluster on which a story may deploy."""

from collections.abc import Iterator

import pytest
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from cluster.connect import Cluster


@pytest.fixture(scope="module")
def serving_cluster(ray_cluster: Cluster) -> Iterator[Cluster]:
    """The embedded cluster; what was deployed on it ends with the module, or other tests would find its processes."""
    yield ray_cluster
    ServeSubmissionClient(ray_cluster.dashboard).delete_applications()
