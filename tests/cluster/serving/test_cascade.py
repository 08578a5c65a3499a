"""Algorithm 1 for requests: the models are coroutines here, so that each can be late, full or dead when it must be."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from uacs.cascade.outcomes import build, with_decision
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.serving.calls import ON_THE_WAY, LargeCall, LargeReply, SmallAnswer, through, until
from uacs.cluster.serving.cascade import Cascade
from uacs.cluster.serving.trouble import Down, Full, Late
from uacs.records import NOT_ASKED, STAGES, Footage, LargeOutput, Sample, SmallOutput

TAUS = Thresholds(tau_small=0.5, tau_large=0.5)
SURE, UNSURE = 0.1, 0.9
numbers, doubts = st.sampled_from([-2.0, -0.4, 0.0, 0.4, 2.0]), st.sampled_from([SURE, 0.5, UNSURE])


def small_of(y, u):
    """A small model that says the same of each sample, or of the i-th y[i] and u[i]."""

    async def answer(call):
        ys, us = np.broadcast_to(y, len(call)), np.broadcast_to(u, len(call))
        return [
            SmallAnswer(SmallOutput(float(a), float(b), (0.2, 0.3, 0.5), 0.01), ()) for a, b in zip(ys, us, strict=True)
        ]

    return answer


class Large:
    """A large model with one answer for stage 2 and one for stage 3; keeps the calls that it got."""

    def __init__(self, y=2.0, u=SURE, again=-1.0, delay=0.0, fail=()):
        self.y, self.u, self.again, self.delay, self.fail = y, u, again, delay, list(fail)
        self.calls = []

    async def __call__(self, call):
        self.calls.append(call)
        if self.fail:
            raise self.fail.pop(0)
        await asyncio.sleep(self.delay)
        n = len(call)
        large = call.chunk.large or [LargeOutput(self.y, self.u, "ok", 0.1)] * n
        due = np.ones(n, bool) if call.chunk.large else call.chunk.due(call.chunk.small, large)
        return LargeReply(large, [LargeOutput(self.again, SURE, "ok", 0.1) if d else NOT_ASKED for d in due])


def ask(small, large, n=1, verifier=None, max_stage="verify", seconds=5.0, chunk_size=32):
    cascade = Cascade(small, large, verifier, chunk_size, "mosi")
    samples = [Sample(f"s{i}", text="words", audio=np.zeros((3, 2))) for i in range(n)]
    return asyncio.run(cascade.answer(samples, {0: b"clip"}, TAUS, max_stage, seconds))


def settled(answered, i=0):
    decision = answered.decision
    return STAGES[decision.stage[i]], STAGES[decision.answer_from[i]], float(decision.prediction[i])


def died():
    return ActorDiedError()


def raised():
    return RayTaskError("answer", "Traceback", ValueError("no"))


def full():
    return BackPressureError(num_queued_requests=1, max_queued_requests=1)


@pytest.mark.parametrize(
    ("y", "u", "large", "expected"),
    [
        (1.0, SURE, Large(), ("small", "small", 1.0)),
        (1.0, 0.5, Large(), ("small", "small", 1.0)),  # a tie is accepted
        (-1.0, UNSURE, Large(2.0, SURE), ("large", "large", 2.0)),
        (1.0, UNSURE, Large(2.0, 0.6), ("average", "average", 1.6)),  # w = (1/.9) / (1/.9 + 1/.6) = .4
        (-1.0, UNSURE, Large(2.0, UNSURE, again=-0.5), ("verify", "verify", -0.5)),
    ],
)
def test_each_of_the_four_ways_settles_as_the_paper_says(y, u, large, expected):
    answered = ask(small_of(y, u), large)
    *who, score = settled(answered)
    assert tuple(who) == expected[:2] and score == pytest.approx(expected[2])
    assert len(large.calls) == (u > 0.5) and not answered.lost


@given(st.lists(st.tuples(numbers, doubts), min_size=1, max_size=9), numbers, doubts, st.integers(1, 4))
def test_whoever_is_asked_together_routing_is_the_evaluation_s(small, y, u, chunk_size):
    ys, us = zip(*small, strict=True)
    answered = ask(small_of(ys, us), Large(y, u), n=len(small), chunk_size=chunk_size)
    samples = [Sample(f"s{i}") for i in range(len(small))]
    table = build(samples, [s.output for s in answered.small], answered.large, answered.verify)
    table = with_decision(table, TAUS.tau_small, TAUS.tau_large)
    assert [STAGES[k] for k in answered.decision.stage] == table["stage"].to_pylist()
    assert answered.decision.prediction.tolist() == table["prediction"].to_pylist()


def test_only_the_unsure_go_on_in_chunks_with_their_own_footage_and_without_features():
    large = Large()
    ask(small_of([1, 1, 1, 1], [UNSURE, SURE, UNSURE, UNSURE]), large, n=4, chunk_size=2)
    assert [[s.sample_id for s in call.chunk.samples] for call in large.calls] == [["s0", "s2"], ["s3"]]
    assert [call.media for call in large.calls] == [{0: b"clip"}, {}]
    assert all(s.audio is None for call in large.calls for s in call.chunk.samples)


def test_a_budget_ends_the_way_early_and_says_which_stage_was_due():
    large = Large(2.0, UNSURE)
    assert settled(ask(small_of(-1, UNSURE), large, max_stage="small")) == ("small", "small", -1.0)
    assert not large.calls
    answered = ask(small_of(-1, UNSURE), large, max_stage="large")
    assert settled(answered) == ("verify", "large", 2.0) and not answered.lost


@pytest.mark.parametrize(
    ("large", "kind"),
    [
        (Large(fail=[full()]), Full),
        (Large(fail=[died() for _ in range(9)]), Down),
        (Large(fail=[raised()]), Down),
        (Large(delay=9.0), Late),
    ],
)
def test_without_the_large_model_the_small_one_s_answer_stands_and_is_marked(large, kind):
    started, seconds = time.monotonic(), 1.0 if kind is Late else 10.0
    answered = ask(small_of(-1, UNSURE), large, seconds=seconds)
    assert time.monotonic() - started < 2 * seconds
    assert settled(answered) == ("large", "small", -1.0)
    assert answered.decision.degraded.all() and isinstance(answered.lost[0], kind)


def test_a_replica_that_dies_once_over_a_call_is_not_noticed():
    answered = ask(small_of(-1, UNSURE), Large(fail=[died()]))
    assert settled(answered) == ("large", "large", 2.0) and not answered.lost


def test_a_second_look_that_is_lost_leaves_stage_2_s_answer_and_is_marked():
    late = LargeOutput(status="timeout", error="the second look did not answer in time")

    async def large(call):
        return LargeReply([LargeOutput(2.0, UNSURE, "ok")], [late])

    answered = ask(small_of(-1, UNSURE), large)
    assert settled(answered) == ("verify", "large", 2.0)
    assert isinstance(answered.lost[0], Late) and not answered.decision.degraded.any()


def test_an_answer_that_cannot_be_read_is_no_outage():
    async def large(call):
        return LargeReply([LargeOutput(status="unparsable", error="'perhaps' is no number")], [NOT_ASKED])

    answered = ask(small_of(-1, UNSURE), large)
    assert settled(answered) == ("large", "small", -1.0) and not answered.lost


def test_a_verifier_of_its_own_is_asked_about_conflicts_alone():
    large, verifier = Large(2.0, UNSURE), Large(again=-0.7)
    answered = ask(small_of([-1, 1, -1], UNSURE), large, n=3, verifier=verifier)
    assert [s.sample_id for s in verifier.calls[0].chunk.samples] == ["s0", "s2"]
    assert verifier.calls[0].media == {0: b"clip"}
    assert [settled(answered, i)[2] for i in range(3)] == pytest.approx([-0.7, 1.5, -0.7])
    dead = ask(small_of([-1, 1], UNSURE), large, n=2, verifier=Large(fail=[full()]))
    assert settled(dead)[1:] == ("large", 2.0) and list(dead.lost) == [0]


@pytest.mark.parametrize(("fault", "kind"), [(full(), Full), (raised(), Down)])
def test_without_the_small_model_there_is_no_answer(fault, kind):
    async def small(call):
        raise fault

    with pytest.raises(kind):
        ask(small, Large())


def test_a_small_model_that_is_late_is_said_and_its_call_cancelled():
    cancelled = []

    async def small(call):
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            cancelled.append(call)
            raise

    with pytest.raises(Late):
        ask(small, Large(), seconds=0.3)
    assert cancelled


def test_a_small_model_that_fails_over_everything_is_not_the_samples_fault():
    async def small(call):
        nan = float("nan")
        return [SmallAnswer(SmallOutput(nan, nan, (nan, nan, nan), error="failed"), (), ours=True)]

    with pytest.raises(Down, match="the small model fails"):
        ask(small, Large())


def test_what_a_call_waited_on_its_way_counts():
    now = time.monotonic()
    assert until(LargeCall(None, {}, 10.0)) - now == pytest.approx(10 - ON_THE_WAY, abs=0.5)
    assert until(LargeCall(None, {}, 10.0, time.time() - 4)) - now == pytest.approx(6 - ON_THE_WAY, abs=0.5)
    for clocks_apart in (-3600, 3600):
        assert until(LargeCall(None, {}, 10.0, time.time() + clocks_apart)) - now > 4


def test_a_sample_that_the_small_model_cannot_read_is_nobody_else_s_fault():
    async def small(call):
        nan = float("nan")
        bad = SmallAnswer(SmallOutput(nan, nan, (nan, nan, nan), error="sample 's0': nothing"), ("text",))
        return [bad, *(await small_of(1.0, UNSURE)(call))[1:]]

    large = Large()
    answered = ask(small, large, n=2)
    assert answered.decision.stage.tolist() == [-1, 1]
    assert [s.sample_id for s in large.calls[0].chunk.samples] == ["s1"]


def test_a_large_model_that_does_not_run_is_not_waited_for():
    asked = []

    class Handle:
        class answer:
            remote = asked.append

    async def runs():
        return False

    began = time.monotonic()
    answered = ask(small_of(1.0, UNSURE), through(Handle, runs), seconds=30.0)
    assert time.monotonic() - began < 5 and not asked
    assert settled(answered)[1] == "small" and isinstance(answered.lost[0], Down)
    assert "the large model does not run" in str(answered.lost[0])


def test_frames_that_the_small_model_decoded_go_along_to_those_who_are_due(tmp_path):
    film, asked = Footage(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2.0), None, 16000), []

    async def small(call):
        asked.append(call)
        answers = await small_of(1.0, [SURE, UNSURE])(call)
        return [replace(answer, footage=film if answer.output.u > 0.5 else None) for answer in answers]

    large, again = Large(u=UNSURE), Large()
    cascade = Cascade(small, large, again, 32, "mosi")
    cascade.frames = 2
    samples = [Sample("a", text="x"), Sample("b", text="x")]
    asyncio.run(cascade.answer(samples, {0: b"one", 1: b"two"}, TAUS, "verify", 5.0))
    (chunk,) = [call.chunk for call in large.calls]
    assert [(s.sample_id, s.footage is film) for s in chunk.samples] == [("b", True)]
    assert asked[0].frames == 2 and asked[0].thresholds == TAUS and large.calls[0].media == {0: b"two"}
    asyncio.run(cascade.answer(samples, {}, TAUS, "small", 5.0))
    assert asked[1].frames is None
