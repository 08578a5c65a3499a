"""A chunk on its way to the large model: what is asked again, what is halved, and that nobody else pays for it."""

import numpy as np
import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from uacs.cluster import asking
from uacs.cluster.asking import Asking
from uacs.errors import BadInput
from uacs.mllm.chunk import Chunk, ChunkAnswer, answer_chunk, ask, by_two
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput

RAISED = RayTaskError("answer", "trace\nRuntimeError: out of memory", RuntimeError("out of memory"))
LOST = RayTaskError("answer", "trace\nObjectLostError", ObjectLostError("ab", "owner", "site"))


def preempted():
    """A replica's end that a spot node's owner wanted."""
    error = ActorDiedError()
    error._preempted = True
    return error


LOAD = [
    ActorUnavailableError("busy", None),
    BackPressureError(num_queued_requests=9, max_queued_requests=8),
    DeploymentUnavailableError("large"),
    NodeDiedError("gone"),
    LOST,
    RayTaskError("answer", "trace", BadInput("models/7b: no weights there yet")),
    preempted(),
]


class Handle:
    """Serve's handle: a chunk with the sample `poison` raises `error`, until after `healthy_after` calls."""

    def __init__(self, error, healthy_after=None):
        self.error, self.healthy_after, self.calls = error, healthy_after, 0
        self.answer = self

    def remote(self, chunk):
        self.calls += 1
        healthy = self.healthy_after is not None and self.calls > self.healthy_after
        poisoned = not healthy and any(s.sample_id == "poison" for s in chunk.samples)
        return Response(self.error if poisoned else None, chunk)


class Response:
    def __init__(self, error, chunk):
        self.error, self.chunk = error, chunk

    def result(self):
        if self.error:
            raise self.error
        large = [LargeOutput(float(len(s.sample_id)), 0.1, "ok", 1.0) for s in self.chunk.samples]
        return ChunkAnswer(large, [NOT_ASKED] * len(large))


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """No waiting; the pauses that there would have been."""
    taken = []
    monkeypatch.setattr(asking.time, "sleep", taken.append)
    return taken


def asked(handle, ids, chunk_size, told=lambda asked, twice: None):
    samples, small = [Sample(i, "text") for i in ids], [SmallOutput(0.5, 1.0, (0.3, 0.3, 0.4)) for _ in ids]
    return ask(samples, small, np.ones(len(ids), bool), 0.5, "due", chunk_size, Asking(handle, told).answers).large


@pytest.mark.parametrize("error", [RAISED, RayActorError(), OutOfMemoryError("killed for want of memory")])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_the_culprit_is_found_and_the_others_are_answered(error, place):
    ids = ["a" * (i + 1) for i in range(6)]
    ids.insert(place, "poison")
    sums = []
    outputs = asked(Handle(error), ids, 4, lambda asked, twice: sums.append(asked))
    assert [o.status for o in outputs] == ["unavailable" if i == "poison" else "ok" for i in ids]
    assert [o.y for o in outputs if o.status == "ok"] == [1, 2, 3, 4, 5, 6]
    assert "sample 'poison': the large model failed" in outputs[place].error
    assert sum(sums) == 7  # each is counted once, however often it was asked about


def test_a_replica_that_died_once_costs_nothing():
    outputs = asked(Handle(RayActorError(), healthy_after=1), ["a", "b", "poison"], 3)
    assert [o.status for o in outputs] == ["ok"] * 3


@pytest.mark.parametrize("error", LOAD, ids=lambda error: type(error).__name__)
def test_load_and_lost_nodes_are_waited_out_and_never_held_against_a_sample(error, pauses):
    handle = Handle(error, healthy_after=12)
    outputs = asked(handle, ["a", "b", "poison"], 3)
    assert [o.status for o in outputs] == ["ok"] * 3
    assert handle.calls == 13
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]


def test_a_large_model_that_stays_away_ends_the_run_without_an_answer(monkeypatch):
    clock = iter(range(0, 100_000, 600))
    monkeypatch.setattr(asking.time, "monotonic", lambda: next(clock))
    with pytest.raises(DeploymentUnavailableError):
        asked(Handle(DeploymentUnavailableError("large")), ["poison"], 1)


def test_a_chunk_that_waited_its_turn_for_hours_has_all_patience_left(monkeypatch):
    hours = [0.0]
    monkeypatch.setattr(asking.time, "monotonic", lambda: hours[0])
    handle = Handle(DeploymentUnavailableError("large"), healthy_after=2)
    first = handle.remote

    def waits(chunk):
        hours[0] += 7200.0 if handle.calls == 0 else 1.0
        return first(chunk)

    handle.remote = waits
    assert [o.status for o in asked(handle, ["poison"], 1)] == ["ok"]


def test_a_replica_that_cannot_load_its_model_is_no_samples_fault(monkeypatch):
    clock = iter(range(0, 100_000, 600))
    monkeypatch.setattr(asking.time, "monotonic", lambda: next(clock))
    fault = RayTaskError("answer", "trace", BadInput("models/7b: no weights there"))
    with pytest.raises(RayTaskError) as error:
        asked(Handle(fault), ["a", "poison"], 2)
    assert error.value.cause is fault.cause  # which is what the command says


# a verifier of its own


def differing(count):
    """A chunk of which every other sample's small answer conflicts with what `Handle` says (a positive score)."""
    ids = [str(i) for i in range(count)]
    small = [SmallOutput(-1.0 if i % 2 else 1.0, 0.5, (0, 1, 0)) for i in range(count)]
    return Chunk([Sample(i, text="x") for i in ids], small, 0.0, "due")


class Second:
    """A verifier's handle: its model says -2.0, and fails at the sample that it is told."""

    readout = "none"

    def __init__(self, poison=None):
        self.answer, self.poison, self.seen = self, poison, []

    def remote(self, chunk):
        assert chunk.large is not None
        self.seen.append([s.sample_id for s in chunk.samples])
        return self if self.poison in self.seen[-1] else Done(answer_chunk(self, chunk))

    def result(self):
        raise RAISED

    def verify(self, samples, small, large):
        return [LargeOutput(-2.0, 0.2, "ok") for _ in samples]


class Done:
    def __init__(self, answer):
        self.answer = answer

    def result(self):
        return self.answer


def test_a_verifier_is_asked_about_what_is_due_for_it_alone():
    verifier, chunks = Second(), [differing(4), differing(1), differing(3)]
    answers = by_two(Asking(Handle(None)).answers, Asking(verifier).answers)(chunks)
    assert verifier.seen == [["1", "3"], ["1"]]
    assert [[o.y for o in a.large] for a in answers] == [[1.0] * 4, [1.0], [1.0] * 3]
    assert [[o.status for o in a.verify] for a in answers] == [
        ["not_asked", "ok", "not_asked", "ok"],
        ["not_asked"],
        ["not_asked", "ok", "not_asked"],
    ]


def test_a_sample_that_the_verifier_fails_over_keeps_its_stage_2_answer_and_says_why():
    sums = []
    verifier = Asking(Second(poison="3"), lambda asked, twice: sums.append((asked, twice)))
    (answer,) = by_two(Asking(Handle(None)).answers, verifier.answers)([differing(6)])
    assert [o.status for o in answer.large] == ["ok"] * 6
    assert [o.status for o in answer.verify] == ["not_asked", "ok", "not_asked", "unavailable", "not_asked", "ok"]
    assert "sample '3': the verifier failed" in answer.verify[3].error


def test_nobody_is_verified_where_nobody_is_to_be():
    verifier = Second()
    never = [Chunk(c.samples, c.small, c.tau_large, "never") for c in [differing(4)]]
    (answer,) = by_two(Asking(Handle(None)).answers, Asking(verifier).answers)(never)
    assert not verifier.seen and {o.status for o in answer.verify} == {"not_asked"}
