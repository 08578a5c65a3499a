"""A model's turns: what comes while it is at work is answered together, next.

`serve.batch` cuts a batch when its first call comes and then lets it wait for the model, so that under load calls go
by one by one unless each waits a while for others. Here a batch is cut when the model is free: an idle model answers
at once, and a busy one by the batch.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Call = TypeVar("Call", bound=Sized)
Reply = TypeVar("Reply")


class Turns(Generic[Call, Reply]):
    """Has `work` do lists of calls in a thread, one list at a time, each of `most` samples or of one call alone.

    A call's length is its samples. One that is cancelled while it waits is left out. An exception of `work` is that
    of all calls in its list.
    """

    def __init__(
        self,
        work: Callable[[list[Call]], list[Reply]],
        most: int,
    ):
        self.work, self.most = work, most
        self._thread = ThreadPoolExecutor(1, "model")
        self._waiting: deque[tuple[Call, asyncio.Future]] = deque()
        self._at_work: asyncio.Task | None = None
        self._since: float | None = None

    async def __call__(self, call: Call) -> Reply:
        """The reply to a call, when its turn has come."""
        future = asyncio.get_running_loop().create_future()
        waiting = call, future
        self._waiting.append(waiting)
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        try:
            return await future
        except asyncio.CancelledError:
            with suppress(ValueError):  # its turn has come
                self._waiting.remove(waiting)
            raise

    def check(self, most: float) -> None:
        """Raise if the model has been at one list for more than so many seconds: it may never come back."""
        since = self._since
        if since is not None and time.monotonic() - since > most:
            raise RuntimeError(f"at one batch for {time.monotonic() - since:.0f} seconds")

    def moved(self) -> None:
        """To be called by `work` between a list's parts: `check` then looks at the next part alone."""
        self._since = time.monotonic()

    async def _work(self) -> None:
        try:
            while chosen := self._next():
                self._since = time.monotonic()
                await self._done([call for call, _ in chosen], [future for _, future in chosen])
                self._since = None
        finally:
            self._at_work = self._since = None

    async def _done(self, calls: list[Call], futures: list[asyncio.Future]) -> None:
        """Have a list done; whatever comes of it, nobody is left waiting."""
        try:
            replies = await asyncio.get_running_loop().run_in_executor(self._thread, self.work, calls)
            for future, reply in zip(futures, replies, strict=True):
                if not future.done():
                    future.set_result(reply)
        except BaseException as error:
            fault = error if isinstance(error, Exception) else RuntimeError(repr(error))
            for future in futures:
                if not future.done():
                    future.set_exception(fault)
            if isinstance(error, asyncio.CancelledError):
                raise

    def _next(self) -> list[tuple[Call, asyncio.Future]]:
        """The calls whose turn it is; none if none waits."""
        chosen: list[tuple[Call, asyncio.Future]] = []
        room = self.most
        while self._waiting:
            call, future = self._waiting[0]
            if not future.done():
                if chosen and len(call) > room:
                    break
                chosen.append((call, future))
                room -= len(call)
            self._waiting.popleft()
        return chosen
