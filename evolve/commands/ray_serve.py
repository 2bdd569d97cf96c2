"""What KubeRay's RayService deploys: one Serve deployment whose health is that of the door it owns.

The door keeps its own port: requests, streams and drains do not pass through Serve. Ray Serve is not in the ordinary
set (requirements/cluster.in); nothing else imports this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import ray
from ray import serve

from evolve.commands.doorkeeper import Doorkeeper
from evolve.config import load_mesh


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})
class Doorkeeping:
    """Runs on the head, where the volumes of state and memory are."""

    def __init__(self, config: str, timeout_s: float) -> None:
        """Returns when the door answers; its engines may have taken minutes. Raises DoorEnded if it does not."""
        endpoint = load_mesh(Path(config)).endpoint
        address = str(ray.get_runtime_context().gcs_address)
        self._door = Doorkeeper(
            [config],
            f"http://127.0.0.1:{endpoint.port}",
            environment={"RAY_ADDRESS": address},
            drain_s=endpoint.drain_s + 10.0,
        )
        try:
            self._door.wait_up(timeout_s)
        except BaseException:
            self._door.end()
            raise

    def check_health(self) -> None:
        """Called by Serve; what it raises makes Serve replace this, and so the door."""
        self._door.check()

    async def __call__(self, request: Any) -> str:
        """Serve's own port says where the door is."""
        return "The mesh does not answer here, but on the door's own port (endpoint.port of its configuration).\n"

    def __del__(self) -> None:
        """Serve calls it when the replica is to end: the door drains."""
        self._door.end()


def application(arguments: dict[str, str]) -> serve.Application:
    """Builds the application from `args` of the manifest: `config`, and `timeout_s` for the start, 1800 by default."""
    head = {"node:__internal_head__": 0.001}
    placed = cast(Any, Doorkeeping).options(ray_actor_options={"num_cpus": 0, "resources": head})
    return placed.bind(arguments["config"], float(arguments.get("timeout_s", 1800.0)))
