"""The large model behind the endpoint: calls read together, each back by its deadline with what there is."""

import time
from pathlib import Path

import numpy as np
import pytest
from ray import serve

from tests.cluster.chaos import wait_until
from tests.data.test_media import GREYS, write
from uacs.cluster.serving.calls import LargeCall
from uacs.cluster.serving.expert import Expert
from uacs.data.media import Limits
from uacs.mllm import MllmSettings
from uacs.mllm.chunk import Chunk
from uacs.records import NOT_ASKED, Footage, LargeOutput, Sample, SmallOutput

UNSURE = 0.9
SLOW = 4.0


class Model:
    """A large model that answers by a sample's text: `slow` takes its time over stage 3, `bad` raises."""

    readout = "decode"
    frames = 2

    def __init__(self):
        self.batches, self.seen = [], {}

    def answer_and_verify(self, samples, small, due):
        self.batches.append([s.sample_id for s in samples])
        self.seen |= {s.sample_id: s.footage for s in samples}
        if any(s.text == "bad" for s in samples):
            raise ValueError("no such thing")
        large = [LargeOutput(2.0, UNSURE, "ok", 0.1) for _ in samples]
        again = due(small, large)
        if any(s.text == "slow" for s in samples):
            time.sleep(SLOW)
        return large, [LargeOutput(-1.0, 0.1, "ok", 0.1) if d else NOT_ASKED for d in again]

    def verify(self, samples, small, large):
        return [LargeOutput(-2.0, 0.2, "ok", 0.1) for _ in samples]


class Standing(Expert):
    """One with that model, which tells what it was asked together."""

    def __init__(self, spec):
        super().__init__(spec, MllmSettings(batch_size=4), (-3.0, 3.0), "en", "mosi", Limits())
        self.model = Model()

    async def batches(self):
        """The ids that were asked together since the last time."""
        seen, self.model.batches = self.model.batches, []
        return seen

    async def film(self, sample_id):
        """What the model was shown of a sample."""
        return self.model.seen[sample_id]

    async def health(self):
        """What a check of it says now, with a second's patience."""
        try:
            self.turns.check(1.0)
        except RuntimeError as error:
            return str(error)


@pytest.fixture(scope="module")
def replica(ray_cluster, recorded):
    """A handle to it on a real Serve."""
    bound = serve.deployment(Standing, max_ongoing_requests=64).bind(f"recorded:{recorded}")
    yield serve.run(bound, name="standing", route_prefix=None)
    serve.delete("standing")


@pytest.fixture
def batches(replica):
    """What the model was asked together since the test began."""
    replica.batches.remote().result()
    return lambda: replica.batches.remote().result()


def call(*texts, left=5.0, verify="due", large=None, y=-1.0):
    samples = [Sample(f"{text}{i}", text=text) for i, text in enumerate(texts)]
    small = [SmallOutput(y, UNSURE, (0.2, 0.3, 0.5))] * len(texts)
    return LargeCall(Chunk(samples, small, 0.5, verify, large), {}, left)


def ask(replica, *calls):
    responses = [replica.answer.remote(one) for one in calls]
    return [response.result() for response in responses]


def test_calls_that_wait_are_read_together_and_each_gets_its_own(replica, batches):
    slow = replica.answer.remote(call("slow"))
    wait_until(lambda: batches() == [["slow0"]])
    first, second, third = ask(replica, call("a", "b"), call("c", verify="never"), call("d", y=1.0))
    assert [sorted(batch) for batch in batches()] == [["a0", "b1", "c0", "d0"]]
    assert [o.y for o in first.large] == [2.0, 2.0] and [o.y for o in first.verify] == [-1.0, -1.0]
    assert [reply.verify[0].status for reply in (second, third)] == ["not_asked"] * 2  # not wanted; no conflict
    assert slow.result().verify[0].y == -1.0


def test_a_sample_over_which_the_model_raises_is_the_only_one_without_an_answer(replica):
    (reply,) = ask(replica, call("a", "bad", "c"))
    assert [o.status for o in reply.large] == ["ok", "unavailable", "ok"]
    assert "sample 'bad1': the model failed (ValueError)" in reply.large[1].error


def test_a_chunk_longer_than_a_batch_is_answered_whole(replica, batches):
    (reply,) = ask(replica, call(*"abcdef"))
    assert [len(batch) for batch in batches()] == [4, 2] and len(reply.large) == 6


def test_at_the_deadline_what_there_is_goes_back_and_what_waits_is_never_read(replica, batches):
    started = time.monotonic()
    slow = replica.answer.remote(call("slow", left=1.0))
    wait_until(lambda: batches() == [["slow0"]])
    (waited,) = ask(replica, call("a", left=0.3))
    assert waited.large[0].status == "timeout" and waited.verify[0].status == "not_asked"
    reply = slow.result()
    assert time.monotonic() - started < SLOW
    assert reply.large[0].y == 2.0 and reply.verify[0].status == "timeout"
    ask(replica, call("z"))  # behind the slow one
    assert batches() == [["z0"]]


def test_a_call_that_nobody_waits_for_any_more_is_not_read(replica, batches):
    slow = replica.answer.remote(call("slow"))
    wait_until(lambda: batches() == [["slow0"]])
    gone = replica.answer.remote(call("a", left=60))
    gone.cancel()
    ask(replica, call("z"))
    assert batches() == [["z0"]]
    slow.result()


def test_stage_3_alone_is_asked_with_the_answers_that_another_gave(replica, batches):
    before = [LargeOutput(1.5, UNSURE, "ok", 0.1)]
    (reply,) = ask(replica, call("a", large=before))
    assert reply.large == before and reply.verify[0].y == -2.0 and not batches()


def test_a_busy_model_is_well_until_it_has_been_at_one_batch_for_too_long(replica):
    slow = replica.answer.remote(call("slow"))
    replica.check_health.remote().result(timeout_s=SLOW - 1)
    wait_until(lambda: "at one batch" in (replica.health.remote().result() or ""), seconds=SLOW)
    slow.result()
    wait_until(lambda: replica.health.remote().result() is None)


def test_footage_that_comes_along_is_shown_and_a_clip_is_looked_at_where_none_fits(replica, tmp_path):
    clip = Path(write(tmp_path / "clip.mp4", GREYS)).read_bytes()
    few, many = (Footage(np.full((n, 4, 4, 3), 9, np.uint8), np.arange(float(n)), None, 16000) for n in (2, 8))
    samples = [Sample(f"film{i}", text="x", footage=film) for i, film in enumerate((few, many, None))]
    samples.append(Sample("film3", text="x"))
    small = [SmallOutput(-1.0, UNSURE, (0.2, 0.3, 0.5))] * 4
    media = {0: b"never opened", 1: clip, 2: clip, 3: b"no clip"}
    reply = replica.answer.remote(LargeCall(Chunk(samples, small, 0.5, "never"), media, 5.0)).result()
    assert [output.status for output in reply.large] == ["ok"] * 4  # this model answers whatever it is shown
    seen = [replica.film.remote(f"film{i}").result() for i in range(4)]
    assert seen[0].frames.mean() == 9 and [len(film.frames) for film in seen[:3]] == [2, 2, 2]
    assert seen[1].frames.shape == seen[2].frames.shape == (2, 48, 32, 3)
    assert seen[3].fault.startswith("clip: not a clip that decodes") and "/tmp" not in seen[3].fault
