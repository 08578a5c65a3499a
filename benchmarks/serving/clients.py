"""Clients for an endpoint on this machine: as many as are wanted, in one process, and what became of each request."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx2
import numpy as np

GONE = 0
"""Code of a request whose connection broke."""
PATIENCE = 60.0  # seconds after which a request counts as one that hangs: longer than any deadline here


@dataclass(frozen=True)
class Outcome:
    """A request: when it began and ended, in seconds; HTTP's code; and of an answer the stage and the status."""

    began: float
    ended: float
    code: int
    stage: str | None = None
    status: str | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


Body = dict
Send = Callable[[Body], Awaitable[Outcome]]


async def closed(url: str, bodies: Sequence[Body], clients: int, seconds: float) -> list[Outcome]:
    """Closed loop: so many clients, each of which asks again as soon as it is answered, for so many seconds."""
    end, made = time.perf_counter() + seconds, 0

    async with _sending(url, clients) as send:

        async def one() -> list[Outcome]:
            nonlocal made
            found = []
            while time.perf_counter() < end:
                made += 1
                found.append(await send(bodies[made % len(bodies)]))
            return found

        return [outcome for many in await asyncio.gather(*(one() for _ in range(clients))) for outcome in many]


async def opened(url: str, bodies: Sequence[Body], rate: float, seconds: float, seed: int = 0) -> list[Outcome]:
    """Open loop: requests come by chance, `rate` a second on average, whatever becomes of those before."""
    draw, tasks = random.Random(seed), list[asyncio.Task]()
    async with _sending(url, 2000) as send:
        at = began = time.perf_counter()
        while at < began + seconds:
            at += draw.expovariate(rate)
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            tasks.append(asyncio.create_task(send(bodies[len(tasks) % len(bodies)])))
        return list(await asyncio.gather(*tasks))


async def at_once(url: str, bodies: Sequence[Body], meanwhile: Callable[[], None] | None = None) -> list[Outcome]:
    """All requests at once; once they are under way, `meanwhile` is called in a thread."""
    async with _sending(url, len(bodies)) as send:
        tasks = [asyncio.create_task(send(body)) for body in bodies]
        await asyncio.sleep(0.05)
        if meanwhile:
            await asyncio.to_thread(meanwhile)
        return list(await asyncio.gather(*tasks))


class _sending:
    def __init__(self, url: str, connections: int):
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self.url, self.http = url, httpx2.AsyncClient(timeout=PATIENCE, limits=limits)

    async def __aenter__(self) -> Send:
        return self.send

    async def __aexit__(self, *_) -> None:
        await self.http.aclose()

    async def send(self, body: Body) -> Outcome:
        began = time.perf_counter()
        try:
            response = await self.http.post(f"{self.url}/v1/predict", json=body)
        except httpx2.TimeoutException:
            raise  # one that hangs is never counted among the others
        except httpx2.HTTPError:
            return Outcome(began, time.perf_counter(), GONE)
        ended = time.perf_counter()
        said = response.json() if response.status_code == 200 else {}
        return Outcome(began, ended, response.status_code, said.get("stage"), said.get("status"))


def milliseconds(outcomes: Sequence[Outcome], *percentiles: float) -> list[float]:
    """Percentiles of how long answers took."""
    taken = [outcome.seconds for outcome in outcomes if outcome.code == 200]
    return [float(np.percentile(taken, p)) * 1000 if taken else float("nan") for p in percentiles]


def codes(outcomes: Sequence[Outcome]) -> str:
    """How many had which code.

    >>> codes([Outcome(0, 1, 200), Outcome(0, 1, 503), Outcome(0, 1, 200)])
    '200 x 2, 503 x 1'
    """
    found = Counter(outcome.code for outcome in outcomes)
    return ", ".join(f"{code or 'connection lost'} x {count}" for code, count in sorted(found.items()))
