"""What this project takes from Ray's private parts, all of it: what must be looked at when Ray moves to another version.

Whatever Ray calls by a name with an underscore, or keeps in ray.dashboard, is imported here and nowhere else (the tests hold
the packages to that), each with why the public way does not do and what breaks without it. Ray is imported when it is
asked for: looking at a recipe or showing help needs none of it.

Four classes override what Ray calls, or use what they inherit, under private names; it stands in them, and is listed here:

- `__serve_build_asgi_app__` (serve/deployment/replica.py): Serve's hook for an ASGI application that is made in the replica,
  once the model is loaded; `serve.ingress(app)` wants it before. Without it no route answers.
- `_do_request` (cluster/connection/jobs.py): the one place where each question to the jobs API gets its time limit, which no
  public setting gives. Without it a silent dashboard is waited for without end.
- `_create_bracket`, `_process_bracket` and the settings that they read (jobs/search/schedulers.py): HyperBand's own steps.
  Publicly it has several brackets, of sizes that it chooses. Without them halving is another algorithm, and may stand still.
- `_ot_study`, `_ot_trials` (jobs/search/records.py): Optuna's study in Ray's wrapper. Publicly points can be given to begin
  with, but not with trials that keep their names. Without them a search that was killed draws its trials anew.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
    from ray.tune.schedulers.hyperband import _Bracket as Bracket
    from ray.tune.search import BasicVariantGenerator

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable that tells a job's driver of its job: its id, and the package that it was made from.

Publicly only a process that is connected (ray.init) learns that, and a driver that submits other jobs need not be. Without it
jobs have no parents: the children of one that is stopped go on, and run other code.
"""
UPLOAD_LOGGERS = (
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
    "ray.dashboard.modules.dashboard_sdk",
)
"""Ray's loggers that tell every upload, and each file that .gitignore keeps back; `quiet_uploads` silences them."""


def quiet_uploads() -> None:
    """Have Ray say nothing of uploads but errors.

    No setting does, for the one of all Ray would silence the rest too. Without it each job begins with lines about its files.
    """
    for name in UPLOAD_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def visit_upload(directory: Path, visit: Callable[[Path], None]) -> None:
    """Call it for all that Ray would upload of a directory, directories too.

    Ray's own walk, so that the answer is what Ray does: its reading of ignore files differs from git's in corners. Publicly
    it only uploads. Without it a directory that is too large, or has what git does not know, is not found out before.
    """
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    packaging._dir_travel(
        directory,
        [packaging._get_excludes(directory, ray_constants.get_runtime_env_default_excludes())],
        visit,
        include_gitignore=os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
    )


def most_upload_bytes() -> int:
    """What Ray takes as a job's working directory.

    It stands in its refusal alone, which does not name the files. Without it they are found one refusal after another.
    """
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    return int(DASHBOARD_CLIENT_MAX_SIZE)


def dashboard_url(address: str) -> str:
    """The URL of the dashboard of the cluster with this GCS; raises what Ray raises where it does not say.

    Publicly it is in the context that ray.init returns, which would connect this process. Without it users would have to
    name both addresses.
    """
    from ray.dashboard.utils import ray_address_to_api_server_url

    return str(ray_address_to_api_server_url(address))


def read_environment_again() -> None:
    """Have Ray take its access settings from the environment as it is now.

    It reads them once, when it is imported, which may be long past. Without it a process can reach the first cluster alone:
    the next one's token is not sent.
    """
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # a compiled module

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, not ray_constants.IS_WINDOWS_OR_OSX
    )


def reported_node_groups() -> Sequence[Any]:
    """The node types that the connected cluster's autoscaler has reported: name, resources, max_count; none where it does not.

    Publicly there are only the nodes that run. Without it a plan inside a job does not know which nodes may still come.
    """
    import ray

    config = ray._private.state.state.get_cluster_config()
    return config.node_group_configs if config is not None else ()


def growable_resources() -> Mapping[str, float] | None:
    """What the connected cluster may grow to, by resource; None where it does not grow.

    Publicly there is only what it has. Without it a search begins with as many trials as the first node holds, and goes on so.
    """
    import ray

    most: Mapping[str, float] | None = ray._private.state.state.get_max_resources_from_cluster_config()
    return most


def draining() -> bool:
    """Whether the node that this process runs on is being drained: a spot node that its cloud wants back.

    Publicly only Ray Train's workers learn of it. Without it a worker in a task of its own loses its steps since the last
    checkpoint when its node goes.
    """
    import ray

    return ray.get_runtime_context().get_node_id() in ray._private.state.state.get_draining_nodes()


def serve_controller() -> Any:
    """This process's client of Serve's controller, which knows where Serve listens (`http_config`) and takes configs.

    Publicly the dashboard's REST interface does both, and a cluster may have no dashboard. Without it a replica does not
    know that it answers the network, and would do so without keys.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None, "raised where Serve does not run"
    return client


def serve_rest_client(dashboard: str) -> "ServeSubmissionClient":
    """Serve's REST interface at a dashboard's URL.

    The command line `serve deploy` is the public way: its answer is for people. Without it nothing is deployed.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    return ServeSubmissionClient(dashboard)


def serve_logs_directory() -> Path:
    """Where Serve keeps its logs on this host, and the dashboard shows them.

    It is documented as a place under Ray's session, whose directory is not told publicly. Without it the access log would
    lie where nobody looks.
    """
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return Path(get_serve_logs_dir())


def hyperband_bracket(*settings: Any) -> "Bracket":
    """A bracket of Ray's HyperBand: clock, trials, first rung, last one, factor, halvings, whether the last are stopped.

    Publicly the scheduler makes its brackets by itself. Without it there is no `_create_bracket`, see above.
    """
    from ray.tune.schedulers.hyperband import _Bracket

    return _Bracket(*settings)


def halvings_left(bracket: "Bracket") -> int:
    """How often a bracket is still halved.

    Nothing public tells. Without it trials that a restart finds beyond their rung stay paused for ever.
    """
    return int(bracket._halves)


def name_trials(generator: "BasicVariantGenerator", prefix: str) -> None:
    """Have a search's trials named by this prefix and their numbers.

    Ray draws the prefix, and `trial_dirname_creator` names directories only. Without it a search that was killed does not find
    what its trials have left.
    """
    generator._uuid_prefix = prefix
