"""Ray Serve's own echo: what the way to a replica and back costs, with nothing of ours in it.

applications:
  - {name: echo, route_prefix: /, import_path: "tests.benchmarks.serve_echo:application"}
"""

from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0}, logging_config={"enable_access_log": False})
class Echo:
    """Gives the body back."""

    async def __call__(self, request: Request) -> Response:
        """The body, as it came."""
        return Response(await request.body(), media_type="application/json")


application = Echo.bind()  # type: ignore[attr-defined]
