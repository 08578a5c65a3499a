"""Which deployments have a replica that runs, by Serve's own account: a model that is busy is there."""

import asyncio
import time

from ray import serve

FRESH = 1.0  # seconds that an account holds
OLD = 10.0  # seconds after which one says nothing about who runs now
WAIT = 2.0  # seconds that Serve may take to give it; then the last one holds, and `fault` says so


class States:
    """The states of the application's deployments, asked for at most once a second, by one at a time."""

    def __init__(self) -> None:
        self._app = serve.get_replica_context().app_name
        self._found: dict[str, bool] = {}
        self._at = -OLD
        self._asking: asyncio.Task | None = None
        self.fault: str | None = None

    async def up(self, deployment: str) -> bool:
        """Whether a replica of it runs."""
        if time.monotonic() - self._at > FRESH:
            asking = self._refreshed()
            await asyncio.wait([asking], timeout=WAIT)
            if not asking.done():
                self.fault = "Serve's controller does not say who runs: this was before"
        return self._found.get(deployment, False)

    def seen(self, deployment: str) -> bool:
        """The same by the last account, without waiting for a fresh one; where there is none, or an old one, it is."""
        age = time.monotonic() - self._at
        if age > FRESH:
            self._refreshed()
        return age > OLD or self._found.get(deployment, True)

    def _refreshed(self) -> asyncio.Task:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            self._found, self._at, self.fault = await asyncio.to_thread(self._read), time.monotonic(), None
        except Exception as error:
            self.fault = f"Serve's controller does not answer ({type(error).__name__})"

    def _read(self) -> dict[str, bool]:
        app = serve.status().applications.get(self._app)
        found = app.deployments if app else {}
        return {name: about.replica_states.get("RUNNING", 0) > 0 for name, about in found.items()}
