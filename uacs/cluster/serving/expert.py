"""The large model, or a verifier, for the endpoint: calls that wait are read together; each is back in time."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ray import serve

from uacs.cascade.routing import second_look
from uacs.cluster.serving import footage
from uacs.cluster.serving.calls import LargeCall, LargeReply, until
from uacs.cluster.serving.scaling import Outlook
from uacs.cluster.serving.turns import Turns
from uacs.cluster.serving.watch import batches
from uacs.cluster.serving.wires import close_grpc
from uacs.data.clips import Clips
from uacs.data.extract import Wanted
from uacs.data.media import Limits
from uacs.errors import reason
from uacs.mllm import LargeModel, MllmSettings, build
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput

STUCK = 900.0  # seconds over one batch after which a replica is taken for lost


log = logging.getLogger("ray.serve")


class Pending:
    """A call and what has been answered of it. The model's thread writes, and the call reads at its deadline."""

    def __init__(self, call: LargeCall):
        self.call, self.until = call, until(call)
        self.gone = False
        self.large: dict[int, LargeOutput] = dict(enumerate(call.chunk.large or ()))
        self.verify: dict[int, LargeOutput] = {}

    def __len__(self) -> int:
        return len(self.call)

    @property
    def left(self) -> float:
        """Seconds until what there is goes back; 0 where nobody waits for it."""
        return 0.0 if self.gone else self.until - time.monotonic()

    def reply(self) -> LargeReply:
        """An answer a sample: its own, or that there was no time for it."""
        places = range(len(self))
        large = [self.large.get(i, _late("the large model")) for i in places]
        return LargeReply(large, [self.verify.get(i, NOT_ASKED) for i in places])


Row = tuple[Pending, int]
"""A sample by its call and its place there."""


class Expert:
    """One copy of a large model. What it says of a sample is what `LargePredictor` says, as anywhere else.

    Torch works in a thread of its own, so that a busy replica can say that it is well, and answer for those
    whose time is up. A wrong model folder raises: Serve then keeps the version that was there before.
    """

    def __init__(
        self,
        spec: str,
        settings: MllmSettings,
        score_range: tuple[float, float],
        language: str,
        dataset: str,
        limits: Limits,
    ):
        close_grpc()
        self.model: LargeModel = build(spec, settings, score_range, language, dataset)
        self.most, self.clips = settings.batch_size, Clips(limits)
        self.outlook = Outlook()
        self.sizes = batches(serve.get_replica_context().deployment)
        self.turns = Turns(self._answer, self.most)

    def check_health(self) -> None:
        """Raise if the model has not come back for long: Serve then builds another replica."""
        self.turns.check(STUCK)

    async def frames(self) -> int | None:
        """How many of a clip the model looks at."""
        return self.model.frames

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `look_ahead` goes by."""
        return await self.outlook.figures()

    def _worked(self, samples: int, seconds: float) -> None:
        self.turns.moved()
        self.sizes(samples, seconds)
        self.outlook.worked(seconds, samples)

    async def answer(self, call: LargeCall) -> LargeReply:
        """Stage 2 for the chunk and stage 3 for those that are due, or what there is of it at the deadline."""
        pending = Pending(call)
        try:
            await asyncio.wait_for(self.turns(pending), max(pending.left, 0))
        except TimeoutError:
            pass
        finally:
            reply, pending.gone = pending.reply(), True
        return reply

    def _answer(self, calls: list[Pending]) -> list[None]:
        rows = [(call, i) for call in calls for i in range(len(call))]
        for wanted in (False, True):  # stage 3 alone, of a verifier's calls
            chosen = [row for row in rows if (row[0].call.chunk.large is not None) == wanted]
            for k in range(0, len(chosen), self.most):
                if now := [row for row in chosen[k : k + self.most] if row[0].left > 0]:
                    began = time.monotonic()
                    self._guarded(now)
                    self._worked(len(now), time.monotonic() - began)
        return [None] * len(calls)

    def _guarded(self, rows: list[Row]) -> None:
        """All answers; one by one if the model raises, so that one sample's fault is not the others'."""
        try:
            self._asked(rows)
        except Exception as error:
            if "CUDA error" in str(error):
                os._exit(1)  # its GPU answers nothing any more; Serve builds another, the call is made again
            if len(rows) > 1:
                for row in rows:
                    if row[0].left > 0:
                        self.turns.moved()
                        self._guarded([row])
                return
            ((call, i),) = rows
            log.error("the model failed", extra={"error": type(error).__name__, "why": reason(error)})
            said = f"sample '{call.call.chunk.samples[i].sample_id}': the model failed ({type(error).__name__})"
            which = call.verify if call.call.chunk.large is not None else call.large
            which[i] = LargeOutput(status="unavailable", error=said)

    def _asked(self, rows: list[Row]) -> None:
        named = [self._fitting(call.call.chunk.samples[i]) for call, i in rows]
        media = {
            k: call.call.media[i]
            for k, (call, i) in enumerate(rows)
            if i in call.call.media and named[k].footage is None
        }
        small = [replace(call.call.chunk.small[i]) for call, i in rows]  # one object a row, by which it is known
        with footage.on_disk(named, media) as clips:
            samples = [self._seen(row, sample) for row, sample in zip(rows, clips, strict=True)]
        if rows[0][0].call.chunk.large is not None:
            self._again(rows, samples, small)
        else:
            self._both(rows, samples, small)

    def _fitting(self, sample: Sample) -> Sample:
        """The sample, without footage that was made for a model that looks at another number of frames."""
        film = sample.footage
        fits = film is None or film.frames is None or len(film.frames) == self.model.frames
        return sample if fits else replace(sample, footage=None)

    def _seen(self, row: Row, sample: Sample) -> Sample:
        """The sample with what its clip shows, where the small model has not decoded it, in the time that is left."""
        if self.model.frames is None or sample.clip is None or sample.footage:
            return sample
        self.turns.moved()
        looked = self.clips.look(sample, Wanted(frames=self.model.frames), max(row[0].left, 0.0))
        if (film := looked.footage) and film.fault:
            return replace(looked, footage=replace(film, fault=footage.plain(film.fault, sample)))
        return looked

    def _again(self, rows: list[Row], samples: list[Sample], small: list[SmallOutput]) -> None:
        looked = self.model.verify(samples, small, [call.large[i] for call, i in rows])
        for (call, i), output in zip(rows, looked, strict=True):
            call.verify[i] = output

    def _both(self, rows: list[Row], samples: list[Sample], small: list[SmallOutput]) -> None:
        row_of = {id(output): row for output, row in zip(small, rows, strict=True)}

        def due(answered: list[SmallOutput], large: list[LargeOutput]) -> np.ndarray:
            """Who is looked at again; what stage 2 said is noted, in case that the time is up before stage 3 is."""
            now = [row_of[id(output)] for output in answered]
            for (call, i), output in zip(now, large, strict=True):
                call.large[i] = output
            wanted = _conflicts(now, answered, large)
            for (call, i), want in zip(now, wanted, strict=True):
                if want:
                    call.verify[i] = _late("the second look")
            return wanted & np.array([call.left > 0 for call, _ in now])

        large, looked = self.model.answer_and_verify(samples, small, due)
        for (call, i), second, third in zip(rows, large, looked, strict=True):
            call.large[i] = second
            if third.status != NOT_ASKED.status:
                call.verify[i] = third


def _conflicts(rows: Sequence[Row], small: list[SmallOutput], large: list[LargeOutput]) -> np.ndarray:
    """Which rows Algorithm 1 looks at twice, (N,), of those whose call asks for it."""
    y_small = np.array([output.y for output in small])
    y_large, u_large = np.array([output.y for output in large]), np.array([output.u for output in large])
    tau = np.array([call.call.chunk.tau_large for call, _ in rows])
    asked = np.array([call.call.chunk.verify != "never" for call, _ in rows])
    return second_look(y_small, y_large, u_large, tau, "due") & asked


def _late(who: str) -> LargeOutput:
    return LargeOutput(status="timeout", error=f"{who} did not answer in time")
