"""Which deployments have a replica that runs, by Serve's own account: a model that is busy is there."""

import asyncio
import time

from ray import serve

FRESH = 1.0  # seconds that an account holds


class States:
    """The states of the application's deployments, asked for at most once a second."""

    def __init__(self) -> None:
        self._app = serve.get_replica_context().app_name
        self._found: dict[str, bool] = {}
        self._at = -FRESH

    async def up(self, deployment: str) -> bool:
        """Whether a replica of it runs."""
        if time.monotonic() - self._at > FRESH:
            self._found, self._at = await asyncio.to_thread(self._read), time.monotonic()
        return self._found.get(deployment, False)

    def _read(self) -> dict[str, bool]:
        app = serve.status().applications.get(self._app)
        found = app.deployments if app else {}
        return {name: about.replica_states.get("RUNNING", 0) > 0 for name, about in found.items()}
