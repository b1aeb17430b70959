"""Ray's fake node provider, more like a cloud: nodes take a while to come, and each has its own directory for jobs' code.

In one directory the nodes of a machine would remove each other's. Ray's monitor imports this module by its name alone.
"""

import time
import uuid
from functools import partial
from typing import Any
from unittest.mock import patch

from ray._private import parameter
from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

START_SECONDS = 20.0


class Provider(FakeMultiNodeProvider):
    """Starts and ends processes of this machine as nodes."""

    def create_node_with_resources_and_labels(self, *arguments: Any, **named: Any) -> None:
        """As Ray's, after a while."""
        time.sleep(START_SECONDS)
        super().create_node_with_resources_and_labels(*arguments, **named)

    def _create_node_with_resources_and_labels(self, *arguments: Any, **named: Any) -> None:
        own = partial(RayParams, runtime_env_dir_name=f"resources-{uuid.uuid4().hex[:8]}")
        with self.lock, patch.object(parameter, "RayParams", own):  # Nodes are started by several threads.
            super()._create_node_with_resources_and_labels(*arguments, **named)
