"""A chunk that fails or kills its replica is halved until one sample is left; nobody else pays for it."""

import numpy as np
import pytest
from ray.exceptions import RayActorError, RayTaskError

from uacs.cluster.pipeline import Ask, LargeStage
from uacs.mllm.chunk import ChunkAnswer
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput


class Handle:
    """Serve's handle as the stage uses it; a chunk with a poisonous sample raises."""

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
        large = [LargeOutput(float(s.sample_id), 0.1, "ok", 1.0) for s in self.chunk.samples if s.sample_id != "poison"]
        large += [LargeOutput(9.0, 0.1, "ok", 1.0)] * (len(self.chunk.samples) - len(large))
        return ChunkAnswer(large, [NOT_ASKED] * len(large))


def asked(handle, ids, chunk_size):
    stage = LargeStage.__new__(LargeStage)
    stage.handle, stage.chunk_size, stage.ask = handle, chunk_size, Ask(0.5, 0.5, True, "due")
    samples = [Sample(i, "text") for i in ids]
    small = [SmallOutput(0.5, 1.0, (0.3, 0.3, 0.4)) for _ in ids]
    return stage._asked(samples, small).to_pylist()


@pytest.mark.parametrize("error", [RayTaskError("answer", "trace\nRuntimeError: out of memory", None), RayActorError()])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_the_culprit_is_found_and_the_others_are_answered(monkeypatch, error, place):
    monkeypatch.setattr("uacs.cluster.pipeline.time.sleep", lambda seconds: None)
    ids = [str(i) for i in range(6)]
    ids.insert(place, "poison")
    rows = asked(Handle(error), ids, chunk_size=4)
    assert [r["sample_id"] for r in rows] == ids
    for row in rows:
        if row["sample_id"] == "poison":
            assert (row["large_status"], row["y_large"]) == ("unavailable", None)
            assert "sample 'poison': the large model failed" in row["error"]
        else:
            assert (row["large_status"], row["y_large"]) == ("ok", float(row["sample_id"]))


def test_a_replica_that_died_once_costs_nothing(monkeypatch):
    monkeypatch.setattr("uacs.cluster.pipeline.time.sleep", lambda seconds: None)
    rows = asked(Handle(RayActorError(), healthy_after=1), ["1", "2", "poison"], chunk_size=3)
    assert [r["large_status"] for r in rows] == ["ok"] * 3
    assert not np.isnan([r["y_large"] for r in rows]).any()
