"""What an endpoint's replica does with a request's samples: the cascade, its answers, and what is counted of them."""

import asyncio
import logging
import random
import time

import numpy as np

from uacs.cascade.thresholds import Thresholds
from uacs.cluster.serving import answers
from uacs.cluster.serving.calls import Media, SmallAnswer
from uacs.cluster.serving.cascade import Answered, Cascade
from uacs.cluster.serving.intake import Wanted
from uacs.cluster.serving.trouble import Trouble
from uacs.cluster.serving.watch import Watch
from uacs.records import Sample
from uacs.wire import Answer, Models

SHOWN = 60.0  # seconds that the large model may take over a sample which nobody waits for

log = logging.getLogger("ray.serve")


class Service:
    """Answers requests by one set of thresholds after another.

    strict: a lost stage is no answer, but the trouble that it is. shadow is the share of accepted samples that the
    large model is shown besides, at most: one at a time, and of a request one.
    """

    def __init__(self, cascade: Cascade, models: Models, strict: bool, shadow: float):
        self.cascade, self.models, self.strict, self.shadow = cascade, models, strict, shadow
        self.watch = Watch()
        self._showing: asyncio.Task | None = None

    async def answer(self, wanted: Wanted, request_id: str, thresholds: Thresholds, seconds: float) -> list[Answer]:
        """An answer a sample, in order, within so many seconds.

        Raises a `Trouble` if the small model does not answer and, if strict, if a stage is lost.
        """
        started = time.monotonic()
        good = [i for i in range(len(wanted.samples)) if i not in wanted.faults]
        samples = [wanted.samples[i] for i in good]
        media = {k: wanted.media[i] for k, i in enumerate(good) if i in wanted.media}
        told = request_id, thresholds, self.models
        found: dict[int, Answer] = {}
        if good:
            answered = await self.cascade.answer(samples, media, thresholds, wanted.budget.max_stage, seconds)
            total = time.monotonic() - started
            found = {i: answers.answer(answered, k, wanted.samples[i], *told, total) for k, i in enumerate(good)}
            self._note(answered, [found[i] for i in good])
            if answered.lost and self.strict:
                raise next(iter(answered.lost.values()))
            self._show(samples, media, answered)
        for i, why in wanted.faults.items():
            found[i] = answers.fault(wanted.samples[i].sample_id, why, *told, time.monotonic() - started)
        return [found[i] for i in range(len(wanted.samples))]

    def _note(self, answered: Answered, found: list[Answer]) -> None:
        for k, answer in enumerate(found):
            lost = answered.lost.get(k)
            self.watch.answered(answer, bool(answered.escalated[k]), kind(lost) if lost else None)

    def _show(self, samples: list[Sample], media: Media, answered: Answered) -> None:
        """Let the large model see an accepted sample now and then, if it is not at another of these."""
        if not self.shadow or (self._showing and not self._showing.done()):
            return
        accepted = np.flatnonzero(~answered.escalated & np.isfinite(answered.decision.prediction))
        drawn = [int(k) for k in accepted if random.random() < self.shadow]
        if drawn:
            k = random.choice(drawn)
            shown = {0: media[k]} if k in media else {}
            self._showing = asyncio.create_task(self._shown(samples[k], shown, answered.small[k]))

    async def _shown(self, sample: Sample, media: Media, small: SmallAnswer) -> None:
        try:
            large = await self.cascade.show(sample, media, small, SHOWN)
        except Exception as error:  # nobody waits for it
            log.info("shadow", extra={"lost": type(error).__name__})
            return
        self.watch.shadowed(small.output.y, large.y)


def kind(trouble: Trouble) -> str:
    """A trouble's name, as metrics have it: full, down, late, unreadable, nokey, toolarge.

    >>> from uacs.cluster.serving.trouble import Late
    >>> kind(Late())
    'late'
    """
    return type(trouble).__name__.lower()
