"""The actor that counts: what may be said twice, who may begin, and who is suspected."""

import asyncio
from types import SimpleNamespace

import pytest

from uacs.cluster import pipeline, tally
from uacs.cluster.pipeline import SmallStage
from uacs.cluster.progress import Counts
from uacs.cluster.tally import Tally
from uacs.errors import Refused
from uacs.records import Sample, SmallOutput


def done(rows, **more):
    return Counts(small=rows, written=rows, **more)


def test_what_is_said_twice_counts_once():
    async def story():
        counter = Tally("r", 600, done(100, errors=1), 4)
        await counter.begin("a")
        await counter.note("a", {"small": 256, "due": 90})
        await counter.note("a", {"asked": 32})
        await counter.note("a", {"asked": 64, "looked_twice": 3})
        midway = await counter.read()
        await counter.begin("a")  # its worker died and the part is done again
        await counter.note("a", {"small": 256})
        await counter.finish("a", done(256, due=90, asked=90, errors=2))
        await counter.finish("a", done(256, due=90, asked=90, errors=2))
        await counter.note("a", {"small": 256})
        return midway, await counter.read()

    midway, end = asyncio.run(story())
    assert midway == Counts(small=356, due=90, asked=64, looked_twice=3, written=100, errors=1)
    assert end == Counts(small=356, due=90, asked=90, written=356, errors=3)


def test_no_more_parts_begin_than_are_allowed_until_one_is_written():
    async def story():
        counter = Tally("r", 600, Counts(), 2)
        await counter.begin("a")
        await counter.begin("b")
        third = asyncio.create_task(counter.begin("c"))
        await asyncio.sleep(0)
        assert await asyncio.wait_for(counter.begin("a"), 1) == 1  # a part under way needs no other place
        assert not third.done()
        await counter.finish("b", done(1))
        assert await asyncio.wait_for(third, 1) == 0
        assert await asyncio.wait_for(counter.begin("b"), 1) == 1  # written, asked for again: it holds no place
        await counter.finish("a", done(1))
        return await asyncio.wait_for(counter.begin("d"), 1)

    assert asyncio.run(story()) == 0


def test_after_a_long_silence_a_part_may_begin_in_any_case(monkeypatch):
    monkeypatch.setattr(tally, "SILENCE", 0.05)

    async def story():
        counter = Tally("r", 600, Counts(), 1)
        await counter.begin("a")  # and then the node with its answers is lost
        return await asyncio.wait_for(counter.begin("b"), 2)

    assert asyncio.run(story()) == 0


class Remote:
    """The real tally, as a stage calls it; `ray.get` is what runs the call."""

    def __init__(self, counter):
        self.counter = counter

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: asyncio.run(getattr(self.counter, name)(*arguments)))


class Died(BaseException):
    """A worker's end, which nothing in it can catch."""


ANSWER = SmallOutput(0.5, 0.1, (0.1, 0.1, 0.8))


def stage(counter, predict, monkeypatch):
    monkeypatch.setattr(pipeline.ray, "get", lambda value: value)
    made = SmallStage.__new__(SmallStage)
    made.tally, made.predictor = Remote(counter), SimpleNamespace(predict=predict)
    return made


def test_the_sample_that_kills_its_workers_is_found_and_all_others_are_answered(monkeypatch):
    def predict(samples):
        if any(sample.sample_id == "7" for sample in samples):
            raise Died
        return [ANSWER for _ in samples]

    counter, samples = Tally("r", 10, Counts(), 4), [Sample(str(i), "text") for i in range(10)]
    worker, begun = stage(counter, predict, monkeypatch), 0
    while True:
        deaths = asyncio.run(counter.begin("p"))
        begun += 1
        try:
            outputs = worker._answers("p", samples, suspect=deaths >= pipeline.SUSPECT)
            break
        except Died:
            assert begun < 10
    assert begun == pipeline.SUSPECT + pipeline.DEADLY + 1
    assert [o.error is None for o in outputs] == [i != 7 for i in range(10)]
    assert "sample '7': the UBM's process died over it" in outputs[7].error


def test_the_sample_that_the_ubm_raises_over_is_an_error_and_costs_no_other(monkeypatch):
    def predict(samples):
        if any(sample.sample_id == "3" for sample in samples):
            raise RuntimeError("not enough memory")
        return [ANSWER for _ in samples]

    samples = [Sample(str(i), "text") for i in range(5)]
    outputs = stage(Tally("r", 5, Counts(), 4), predict, monkeypatch)._answers("p", samples, suspect=False)
    assert [o.error is None for o in outputs] == [True, True, True, False, True]
    assert "sample '3': the UBM failed over it (RuntimeError: not enough memory)" in outputs[3].error


def test_a_ubm_that_raises_over_all_is_no_samples_fault(monkeypatch):
    def predict(samples):
        raise RuntimeError("CUDA is not there")

    with pytest.raises(RuntimeError, match="CUDA is not there"):
        stage(Tally("r", 5, Counts(), 4), predict, monkeypatch)._answers("p", [Sample("a", "text")], suspect=False)


def test_a_run_has_one_driver_on_a_cluster(ray_cluster, monkeypatch):
    import ray

    monkeypatch.setattr(tally, "GRACE", 0.5)
    counter = tally.take("one", 10, Counts(), 2)
    assert ray.get(counter.read.remote()) == Counts()
    assert tally.alive("one") and not tally.alive("another")
    with pytest.raises(Refused, match="run one is under way on this cluster"):
        tally.take("one", 10, Counts(), 2)
    ray.kill(counter)
    monkeypatch.setattr(tally, "GRACE", 10)
    ray.kill(tally.take("one", 10, Counts(), 2))
