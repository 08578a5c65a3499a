"""Algorithm 1 for requests: a deadline over all stages, and an answer from what there is when a stage fails.

The same routing as an evaluation's (`uacs.cascade.routing`), so the same sample has the same answer. It knows
deployments as coroutines alone, and Ray as exceptions.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from uacs.cascade import routing
from uacs.cascade.routing import Verify
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.asking import of_chunk
from uacs.cluster.serving.calls import Asking, LargeCall, LargeReply, Media, SmallAnswer, SmallCall
from uacs.cluster.serving.calls import due as due_of
from uacs.cluster.serving.scaling import Traffic
from uacs.cluster.serving.trouble import Down, Full, Late, Trouble
from uacs.mllm.chunk import Chunk
from uacs.records import NOT_ASKED, Decision, LargeOutput, Sample
from uacs.wire import MaxStage

TRIES = 3  # of a call whose replica died over it
PAUSE = 0.2  # seconds before it is made again
SPARE = 0.1  # seconds of a deadline that are kept for the way back: routing, JSON, the network


@dataclass(frozen=True)
class Answered:
    """All models' answers to some samples, and what routing makes of them; lists and arrays in the samples' order.

    escalated is whom the small model hands on (Eq. 13), asked or not; lost has, by place, why a stage that was due
    could not be asked, or not in time.
    """

    small: list[SmallAnswer]
    large: list[LargeOutput]
    verify: list[LargeOutput]
    decision: Decision
    escalated: np.ndarray
    lost: dict[int, Trouble]


class Cascade:
    """The models behind the endpoint, asked in the order of Algorithm 1.

    frames is, once it is known, how many of a clip the large model looks at: they come from the small model, which
    decodes clips.
    """

    def __init__(self, small: Asking, large: Asking, verifier: Asking | None, chunk_size: int, dataset: str):
        self.small, self.large, self.verifier = small, large, verifier
        self.chunk_size, self.dataset = chunk_size, dataset
        self.traffic = Traffic()
        self.frames: int | None = None

    async def answer(
        self, samples: list[Sample], media: Media, thresholds: Thresholds, max_stage: MaxStage, seconds: float
    ) -> Answered:
        """The answers to some samples within so many seconds.

        Raises `Late`, `Full` or `Down` if the small model does not answer. What is lost of the later stages is
        in `lost`; there the small model's answer stands, or stage 2's.
        """
        until = time.monotonic() + seconds - SPARE
        self.traffic.count(samples=len(samples))
        frames = None if max_stage == "small" else self.frames
        call = SmallCall(samples, media, 0, frames=frames, thresholds=thresholds)
        small = await _called(self.small, call, until, "the small model")
        if small and all(answer.ours for answer in small):
            raise Down("the small model fails; try again later")
        due = due_of([answer.output for answer in small], thresholds)
        large, verify, lost = [NOT_ASKED] * len(samples), [NOT_ASKED] * len(samples), dict[int, Trouble]()
        if max_stage != "small" and due.any():
            self.traffic.count(large=int(np.count_nonzero(due)))
            places = np.flatnonzero(due).tolist()
            chunks = [places[k : k + self.chunk_size] for k in range(0, len(places), self.chunk_size)]
            look: Verify = "due" if max_stage == "verify" else "never"
            looks = (self._looked(at, samples, media, small, thresholds.tau_large, look, until) for at in chunks)
            for at, (reply, why) in zip(chunks, await asyncio.gather(*looks), strict=True):
                for k, i in enumerate(at):
                    large[i], verify[i] = reply.large[k], reply.verify[k]
                    if trouble := _lost(large[i], verify[i], why):
                        lost[i] = trouble
        asked = due if max_stage != "small" else np.zeros_like(due)
        decision = _settled(small, large, verify, asked, thresholds.tau_large)
        return Answered(small, large, verify, decision, due, lost)

    async def show(self, sample: Sample, media: Media, small: SmallAnswer, seconds: float) -> LargeOutput:
        """Stage 2 for one sample, whoever settled it; raises `Late`, `Full` or `Down`."""
        chunk = Chunk([bare(sample, small)], [small.output], float("nan"), "never", dataset=self.dataset)
        until = time.monotonic() + seconds
        return (await _called(self.large, LargeCall(chunk, media, 0), until, "the large model")).large[0]

    async def _looked(
        self,
        at: list[int],
        samples: list[Sample],
        media: Media,
        small: list[SmallAnswer],
        tau_large: float,
        verify: Verify,
        until: float,
    ) -> tuple[LargeReply, Trouble | None]:
        """Stages 2 and 3 for the samples at those places, and what went wrong with the whole chunk, if anything."""
        first: Verify = "never" if self.verifier else verify
        seen = [bare(samples[i], small[i]) for i in at]
        chunk = Chunk(seen, [small[i].output for i in at], tau_large, first, dataset=self.dataset)
        clips = {k: media[i] for k, i in enumerate(at) if i in media}
        try:
            reply = await _called(self.large, LargeCall(chunk, clips, 0), until, "the large model")
        except Trouble as trouble:
            return _nothing(len(at), trouble), trouble
        if self.verifier is None or verify == "never":
            return reply, None
        return await self._again(replace(chunk, verify="due", large=reply.large), clips, until)

    async def _again(self, chunk: Chunk, clips: Media, until: float) -> tuple[LargeReply, Trouble | None]:
        """Stage 3 by a verifier of its own, for the samples that are due for it."""
        large, trouble = chunk.large or [], None
        verify = [NOT_ASKED] * len(large)
        at = np.flatnonzero(chunk.due(chunk.small, large)).tolist()
        if at:
            self.traffic.count(verifier=len(at))
            asked = LargeCall(chunk.part(at), {k: clips[i] for k, i in enumerate(at) if i in clips}, 0)
            try:
                looked = (await _called(self.verifier, asked, until, "the verifier")).verify
            except Trouble as error:
                trouble, looked = error, _nothing(len(at), error).large
            for i, output in zip(at, looked, strict=True):
                verify[i] = output
        return LargeReply(large, verify), trouble


def bare(sample: Sample, answer: SmallAnswer) -> Sample:
    """A sample as the large model is to have it: without features, with what was seen and heard in its clip."""
    text = sample.text if answer.heard is None else answer.heard
    return replace(sample, text=text, audio=None, vision=None, footage=answer.footage)


async def _called(ask: Asking | None, call: SmallCall | LargeCall, until: float, who: str) -> Any:
    """A deployment's reply; the call is made again where its replica died over it, while there is time."""
    assert ask is not None
    deaths = 0
    while (left := until - time.monotonic()) > 0:
        try:
            return await asyncio.wait_for(ask(replace(call, left=left, sent=time.time())), left)
        except TimeoutError:
            break
        except Down:  # known before it was asked
            raise Down(f"{who} does not run at present; try again later") from None
        except BackPressureError:
            raise Full(f"{who} has more to do than it may take on; try again later") from None
        except (RayError, RayServeException) as error:
            fault = of_chunk(error)
            deaths += fault == "died"
            if fault == "raised":
                raise Down(f"{who} failed ({type(error).__name__})") from error
        except Exception as error:  # by gRPC what a replica raises comes as it is
            raise Down(f"{who} failed ({type(error).__name__})") from error
        if deaths == TRIES:
            raise Down(f"{who} died over it {TRIES} times; try again later, or send samples one by one")
        await asyncio.sleep(PAUSE)
    raise Late(f"{who} did not answer in time; allow more, or send less at once")


def _settled(
    small: list[SmallAnswer], large: list[LargeOutput], verify: list[LargeOutput], asked: np.ndarray, tau_large: float
) -> Decision:
    def array(values) -> np.ndarray:
        return np.array([*values], float)

    return routing.settle(
        asked,
        array(s.output.y for s in small),
        array(s.output.u for s in small),
        array(o.y for o in large),
        array(o.u for o in large),
        array(v.y for v in verify),
        tau_large,
    )


def _nothing(count: int, trouble: Trouble) -> LargeReply:
    status = "timeout" if isinstance(trouble, Late) else "unavailable"
    return LargeReply([LargeOutput(status=status, error=str(trouble))] * count, [NOT_ASKED] * count)


def _lost(large: LargeOutput, verify: LargeOutput, why: Trouble | None) -> Trouble | None:
    """Why a sample's stage was not asked, if it was not; an answer that says nothing is no such case."""
    for output in (large, verify):
        if output.status in ("timeout", "unavailable"):
            text = output.error or "a stage could not be asked"
            return why or (Late(text) if output.status == "timeout" else Down(text))
    return None
