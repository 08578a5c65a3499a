"""Who runs, by an account that Serve gives: fresh, old, not at all."""

import asyncio

from uacs.cluster.serving import states
from uacs.cluster.serving.states import States


class Controller:
    """Says who runs, or raises; counts how often it is asked."""

    def __init__(self, **there):
        self.there, self.asked = there, 0

    def __call__(self):
        self.asked += 1
        if isinstance(self.there, Exception):
            raise self.there
        return self.there


def with_states(read, look):
    async def run():
        return await look(States(read))

    return asyncio.run(run())


async def told(found):
    """Wait until an account is there."""
    while not found._found:
        await asyncio.sleep(0.01)


def test_what_serve_says_holds(monkeypatch):
    monkeypatch.setattr(states, "EVERY", 0.01)
    monkeypatch.setattr(states, "FRESH", 0.0)
    controller = Controller(large=False, small=True)

    async def look(found):
        assert await found.seen("large")  # nobody has said anything yet
        await told(found)
        assert not await found.seen("large") and await found.seen("small") and await found.seen("other")
        controller.there = {"large": True}
        assert await found.seen("large")  # at once: a no is asked for again
        controller.there = {"large": False}
        while await found.seen("large"):
            await asyncio.sleep(0.01)
        controller.there = {"large": True}
        assert await found.up("large") and not await found.up("other")

    with_states(controller, look)


def test_an_old_account_says_nothing(monkeypatch):
    monkeypatch.setattr(states, "EVERY", 0.01)
    controller = Controller(large=False)

    async def look(found):
        await told(found)
        controller.there = OSError("gone")
        while not found.fault:
            await asyncio.sleep(0.01)
        assert not await found.seen("large") and "does not answer (OSError)" in found.fault
        monkeypatch.setattr(states, "OLD", 0.0)
        assert await found.seen("large")

    with_states(controller, look)


def test_one_account_is_enough_for_many_who_ask(monkeypatch):
    monkeypatch.setattr(states, "EVERY", 60.0)
    controller = Controller(large=True)

    async def look(found):
        await asyncio.gather(*(found.up("large") for _ in range(20)))
        assert all([await found.up("large") for _ in range(20)])

    with_states(controller, look)
    assert controller.asked == 1
