"""The small model on Ray Serve: requests that come together are answered together."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field, field_validator

from uacs.cascade.estimators import known
from uacs.cluster.serving import footage
from uacs.cluster.serving.calls import SmallAnswer, SmallCall, due, until
from uacs.cluster.serving.turns import Turns
from uacs.cluster.serving.watch import batches
from uacs.cluster.serving.wires import close_grpc
from uacs.data.apart import Broken
from uacs.data.clips import Clips
from uacs.data.extract import Wanted, specs_of
from uacs.data.media import Limits
from uacs.data.speech import Recogniser
from uacs.errors import BadInput, reason
from uacs.records import Footage, Sample, SmallOutput, size_of, transcript

NAN = float("nan")

log = logging.getLogger("ray.serve")
LARGEST, KEPT = 2**26, 2**28
"""Bytes of a clip's frames and sound, and of a call's clips together, that go on to the large model; beyond them it
looks at the clip itself."""
STUCK = 120.0  # seconds over one batch or clip, after which a replica is taken for lost


class SmallSettings(BaseModel):
    """How the small model is asked."""

    model_config = ConfigDict(extra="forbid")

    batch_size: int = Field(64, ge=1, description="most samples that are answered at once")
    device: str = "cpu"
    threads: int = Field(1, ge=1, description="torch threads on CPU")
    estimator: str | None = Field(None, description="of its uncertainty; that of the thresholds, else the UBM's own")

    @field_validator("estimator")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return name and known(name)


@dataclass(frozen=True)
class Filmed:
    """A call whose footage is to be decoded, and when that is too late."""

    call: SmallCall
    until: float

    def __len__(self) -> int:
        return len(self.call)


class Failed(SmallOutput):
    """What the model raised over, which may be its fault."""


class Small:
    """One copy of the UBM. What it says of a sample is what `SmallPredictor` says, as anywhere else.

    Torch works in a thread of its own, and FFmpeg in a process, so that a busy replica can say that it is well.
    """

    def __init__(
        self,
        ubm: str,
        settings: SmallSettings,
        limits: Limits,
        extractors: Sequence[str] = (),
        speech: str | None = None,
    ):
        from uacs.ubm.predictor import SmallPredictor  # torch belongs to replicas alone

        close_grpc()
        self.batch_size = settings.batch_size
        self.predictor = SmallPredictor(ubm, settings.batch_size, settings.device, settings.threads, settings.estimator)
        self.reads = self.predictor.config.features
        self.extract = specs_of({m: info.extractor for m, info in self.reads.items()}, extractors)
        language = self.predictor.config.language
        self.recogniser = Recogniser(speech, language, settings.device) if speech else None
        self.clips = Clips(limits, set(self.extract.values()))
        self.clips.apart.start()
        self.turns = Turns(self._together, settings.batch_size)
        self.sizes = batches("small")
        self.decoding = Turns(self._decoded, 1)
        self.predictor.predict([Sample("first", text="the first answer takes longest")])

    def check_health(self) -> None:
        """Raise if the model or FFmpeg has not come back for long: Serve then builds another replica."""
        self.turns.check(STUCK)
        self.decoding.check(STUCK)

    async def answer(self, call: SmallCall) -> list[SmallAnswer]:
        """An answer a sample, in order. One that cannot be read says why, and does not touch the others."""
        samples, faults = list(call.samples), dict[int, SmallOutput]()
        if call.media or any(sample.clip for sample in samples):
            samples, faults = await self.decoding(Filmed(call, until(call)))
        known = [i for i in range(len(samples)) if i not in faults]
        cuts = [known[k : k + self.batch_size] for k in range(0, len(known), self.batch_size)]
        outputs = await asyncio.gather(*(self.turns([samples[i] for i in cut]) for cut in cuts))
        by_place = dict(zip(known, (output for batch in outputs for output in batch), strict=True))
        by_place |= faults
        kept = self._kept(call, samples, by_place)
        return [
            SmallAnswer(
                output=by_place[i],
                missing=self._missing(sample),
                ours=isinstance(by_place[i], Failed),
                footage=kept.get(i),
                heard=sample.text if self.recogniser else None,
            )
            for i, sample in enumerate(samples)
        ]

    def _kept(self, call: SmallCall, samples: list[Sample], outputs: dict[int, SmallOutput]) -> dict[int, Footage]:
        """The footage of those who are due for the large model, by place."""
        if call.thresholds is None:
            return {}
        if call.frames is None:
            return {}
        asked = due([outputs[i] for i in range(len(samples))], call.thresholds)
        return {i: s.footage for i, s in enumerate(samples) if asked[i] and s.footage}

    def _together(self, calls: list[list[Sample]]) -> list[list[SmallOutput]]:
        began, samples = time.monotonic(), [sample for call in calls for sample in call]
        outputs = iter(self._predict(samples))
        self.sizes(len(samples), time.monotonic() - began)
        return [[next(outputs) for _ in call] for call in calls]

    def _predict(self, samples: list[Sample]) -> list[SmallOutput]:
        """All answers; one by one if the model raises, so that one sample's fault is not the others'."""
        try:
            return self.predictor.predict(samples)
        except Exception as error:
            if "CUDA error" in str(error):
                os._exit(1)  # its GPU answers nothing any more; Serve builds another, calls are made again
            if len(samples) == 1:
                log.error("the UBM failed", extra={"error": type(error).__name__, "why": reason(error)})
                said = f"sample '{samples[0].sample_id}': the UBM failed over it ({type(error).__name__})"
                return [Failed(NAN, NAN, (NAN, NAN, NAN), error=said)]
            return [self._predict([sample])[0] for sample in samples]

    def _decoded(self, calls: list[Filmed]) -> list[tuple[list[Sample], dict[int, SmallOutput]]]:
        return [self._featured(filmed.call, filmed.until) for filmed in calls]

    def _featured(self, call: SmallCall, until: float) -> tuple[list[Sample], dict[int, SmallOutput]]:
        """The samples with the features of their footage, and what to say of those that have none, by place."""
        faults: dict[int, SmallOutput] = {}
        held = 0
        with footage.on_disk(call.samples, call.media) as samples:
            for i, sample in enumerate(samples):
                if sample.clip is None:
                    continue
                self.decoding.moved()
                try:
                    if time.monotonic() > until:
                        raise BadInput("the deadline passed before it was decoded; send fewer clips at once")
                    wanted = Wanted(self.extract, call.frames, listened=self.recogniser is not None)
                    samples[i] = self.clips.look(sample, wanted, until - time.monotonic())
                    if (film := samples[i].footage) and film.fault:
                        raise BadInput(film.fault)
                    if self.recogniser:
                        (samples[i],) = self.recogniser.written_down([samples[i]])
                    held += size_of(film)
                    if held > KEPT or size_of(film) > LARGEST:
                        samples[i] = replace(samples[i], footage=None)
                except BadInput as error:
                    faults[i] = SmallOutput(NAN, NAN, (NAN, NAN, NAN), error=footage.told(str(error), sample))
                except Broken as error:
                    log.error("a clip could not be decoded", extra={"why": str(error)})
                    said = f"sample '{sample.sample_id}': its clip could not be decoded, which is our fault"
                    faults[i] = Failed(NAN, NAN, (NAN, NAN, NAN), error=said)
        return samples, faults

    def _missing(self, sample: Sample) -> tuple[str, ...]:
        absent = ["text"] if transcript(sample) is None else []
        return (*absent, *(modality for modality in self.reads if getattr(sample, modality) is None))
