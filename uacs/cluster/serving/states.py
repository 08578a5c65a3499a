"""Which deployments have a replica that runs, by Serve's own account: a model that is busy is there."""

import asyncio
import time
from collections.abc import Callable

from ray import serve

EVERY = 2.0  # seconds between two accounts
FRESH = 1.0  # seconds that an account is as good as one that is asked for now
OLD = 10.0  # seconds after which one says nothing about who runs now
WAIT = 2.0  # seconds that Serve may take to give it; then the last one holds, and `fault` says so
THERE = ("RUNNING", "PENDING_MIGRATION", "RECOVERING")  # Serve sends calls to all of these


class States:
    """The states of deployments, asked for every other second by one task; `read` gives them, in a thread."""

    def __init__(self, read: Callable[[], dict[str, bool]]):
        self._read, self._found, self._at = read, dict[str, bool](), -OLD
        self._asking: asyncio.Task | None = None
        self.fault: str | None = None
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def up(self, deployment: str) -> bool:
        """Whether a replica of it runs."""
        if time.monotonic() - self._at > FRESH:
            asking = self._refreshed()
            await asyncio.wait([asking], timeout=WAIT)
            if not asking.done():
                self.fault = "Serve's controller does not say who runs: this was before"
        return self._found.get(deployment, False)

    async def seen(self, deployment: str) -> bool:
        """The same by the last account, or by a new one if that said no; without one it is taken to run."""
        if not self._found.get(deployment, True):
            await asyncio.wait([self._refreshed()], timeout=WAIT)
        return time.monotonic() - self._at > OLD or self._found.get(deployment, True)

    async def _follow(self) -> None:
        while True:
            await self._refreshed()
            await asyncio.sleep(EVERY)

    def _refreshed(self) -> asyncio.Task:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            self._found, self._at, self.fault = await asyncio.to_thread(self._read), time.monotonic(), None
        except Exception as error:
            self.fault = f"Serve's controller does not answer ({type(error).__name__})"


def running(app: str) -> dict[str, bool]:
    """Which of an application's deployments have a replica that calls are sent to."""
    there = serve.status().applications.get(app)
    found = there.deployments if there else {}
    return {name: any(about.replica_states.get(state, 0) for state in THERE) for name, about in found.items()}
