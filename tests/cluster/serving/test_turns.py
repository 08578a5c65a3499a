"""Calls that wait for a model: cut when it is free, in order, each with its own reply."""

import asyncio
import threading

import pytest

from uacs.cluster.serving.turns import Turns


class Work:
    """Says each call's length, once it may; keeps what it was given together."""

    def __init__(self):
        self.seen, self.may = [], threading.Event()

    def __call__(self, calls):
        self.seen.append(calls)
        self.may.wait(5)
        if "bad" in calls:
            raise ValueError("bad")
        return [len(call) for call in calls]


async def begun(turns, work, call):
    """The task of a call that the model is at work on."""
    task = asyncio.create_task(turns(call))
    while not work.seen:
        await asyncio.sleep(0.001)
    return task


def run(calls, most=4, cancelled=()):
    """Make all calls while the model is at work on a first one; returns what it saw and the replies."""

    async def all_of_them():
        work = Work()
        turns = Turns(work, most)
        tasks = [await begun(turns, work, "first")]
        tasks += [asyncio.create_task(turns(call)) for call in calls]
        await asyncio.sleep(0.01)
        for i in cancelled:
            tasks[i + 1].cancel()
        work.may.set()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        return work.seen[1:], replies[1:]

    return asyncio.run(all_of_them())


def test_what_waits_is_done_together_in_order_up_to_so_many_samples():
    assert run(["a", "bb", "c", "dd", "eeeeee", "f"]) == (
        [["a", "bb", "c"], ["dd"], ["eeeeee"], ["f"]],
        [1, 2, 1, 2, 6, 1],
    )


def test_what_is_cancelled_while_it_waits_is_not_done():
    seen, replies = run(["a", "b", "c"], cancelled=[1])
    assert seen == [["a", "c"]] and isinstance(replies[1], asyncio.CancelledError)


def test_an_exception_is_that_of_its_list_alone():
    seen, replies = run(["a", "bad", "cccc"])
    assert seen == [["a", "bad"], ["cccc"]] and replies[2] == 4
    assert all(isinstance(reply, ValueError) for reply in replies[:2])


def test_what_is_cancelled_is_let_go_of_at_once():
    async def held():
        work = Work()
        turns = Turns(work, 4)
        first = await begun(turns, work, "first")
        tasks = [asyncio.create_task(turns("footage")) for _ in range(50)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = len(turns._waiting)
        work.may.set()
        await first
        return left

    assert asyncio.run(held()) == 0


def test_not_even_an_exit_stops_it():
    async def twice():
        turns = Turns(work, 4)
        with pytest.raises(RuntimeError, match="SystemExit"):
            await turns("bad")
        return await turns("good")

    def work(calls):
        if calls == ["bad"]:
            raise SystemExit
        return [len(call) for call in calls]

    assert asyncio.run(twice()) == 4


def test_it_works_again_after_a_pause():
    async def twice():
        turns = Turns(lambda calls: [len(call) for call in calls], 4)
        first = await turns("a")
        await asyncio.sleep(0.01)
        return first, await turns("bb")

    assert asyncio.run(twice()) == (1, 2)


def test_a_model_that_does_not_come_back_is_told_and_one_that_did_is_well():
    async def stuck():
        work = Work()
        turns = Turns(work, 4)
        task = await begun(turns, work, "a")
        await asyncio.sleep(0.02)
        turns.check(5.0)
        with pytest.raises(RuntimeError, match="at one batch"):
            turns.check(0.01)
        await asyncio.sleep(0.5)
        turns.moved()
        turns.check(0.4)
        work.may.set()
        await task
        turns.check(0.0)

    asyncio.run(stuck())
