"""All seeds' cells of one large model together, and the figures that are estimated over them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from uacs import metrics
from uacs.cascade.estimators import ESTIMATORS
from uacs.cascade.intervals import Estimate, estimates
from uacs.cascade.routing import SMALL, VERIFY
from uacs.data.mmsa import video_of
from uacs.records import Decision
from uacs.study import paper
from uacs.study.cells import Cell

FEWEST_VIDEOS = 20
"""Clips of a video are left out together in intervals, if there are as many videos as this."""

Predictions = Sequence[np.ndarray]
"""For each seed the answers to the test samples, (N,), NaN where there is none."""


@dataclass(frozen=True)
class View:
    """S cells of a dataset, of one large model and as many seeds, with Eq. 19's λ and β."""

    dataset: str
    cells: Sequence[Cell]
    lambda_: float
    beta: float

    @property
    def name(self) -> str:
        """The large model's."""
        return self.cells[0].name

    @property
    def published(self) -> bool:
        """Whether the paper has figures of this dataset: by its name, and as many test samples."""
        return self.dataset in paper.OWN and paper.VOLUME[self.dataset][0] == len(self.label)

    def where(self, chosen: Sequence[bool]) -> "View":
        """The same of some of the seeds."""
        return replace(self, cells=[cell for cell, wanted in zip(self.cells, chosen, strict=True) if wanted])

    @cached_property
    def videos(self) -> np.ndarray | None:
        """Which of the `known` samples are of one video, (n,), by numbers; None where there are too few to go by."""
        return videos_of([self.cells[0].test.sample_ids[i] for i in self.known])

    @property
    def like(self) -> str:
        """The dataset whose rules hold."""
        return self.cells[0].like

    def having(self, estimator: str) -> "View":
        """The same of the seeds whose UBM has an estimator: of an ensemble there may be fewer."""
        return replace(self, cells=[cell for cell in self.cells if estimator in cell.test.u])

    def seeds_of(self, all_of: "View") -> str:
        """What a row's name says behind it where fewer seeds stand behind the row than behind all."""
        return "" if len(self.cells) == len(all_of.cells) else f" (seeds: {len(self.cells)})"

    @property
    def estimators(self) -> list[str]:
        """Those that some seed's UBM has."""
        return [name for name in ESTIMATORS if any(name in cell.test.u for cell in self.cells)]

    @cached_property
    def label(self) -> np.ndarray:
        """Of the test samples, (N,)."""
        return self.cells[0].test.label

    @cached_property
    def known(self) -> np.ndarray:
        """Places of the test samples with a label that every seed's UBM has answered, (n,)."""
        return np.flatnonzero(np.isfinite(self.label) & np.all([np.isfinite(c.test.y) for c in self.cells], axis=0))

    @property
    def small(self) -> Predictions:
        """The small models' answers."""
        return [cell.test.y for cell in self.cells]

    @property
    def large(self) -> Predictions:
        """The large model's answers, the same for all seeds."""
        return [cell.test.y_large for cell in self.cells]

    @cached_property
    def taus(self) -> list[tuple[float, float]]:
        """tau_small and tau_large of each seed, by entropy."""
        return [cell.thresholds("cbe", self.lambda_, self.beta) for cell in self.cells]

    def decisions(self, estimator: str = "cbe") -> list[Decision]:
        """The cascade of each seed at its own thresholds."""
        return [cell.decide(estimator, cell.thresholds(estimator, self.lambda_, self.beta)) for cell in self.cells]

    def asking(self, s: int, asked: np.ndarray) -> Decision:
        """The entropy's cascade of a seed, if those are asked whom a mask (N,) names."""
        return self.cells[s].settle(asked, "cbe", self.taus[s][1])

    def first(self, s: int, doubt: np.ndarray, count: int) -> Decision:
        """The same, if so many are asked whose doubt (N,) is greatest."""
        return self.asking(s, self.cells[s].most_doubtful(doubt, count))

    def fates(self, s: int) -> tuple[np.ndarray, np.ndarray]:
        """What a seed's samples are answered if none is asked about, and if all are, (N,) each."""
        nobody, everyone = (self.asking(s, np.full(len(self.label), asked)).prediction for asked in (False, True))
        return nobody, everyone

    def matched(self, doubts: Sequence[np.ndarray]) -> list[Decision]:
        """The entropy's cascade of each seed, but that those are asked whom another doubt (N,) puts first, as many."""
        asked = [int(np.sum(ours.stage > SMALL)) for ours in self.decisions()]
        return [self.first(s, doubt, count) for s, (doubt, count) in enumerate(zip(doubts, asked, strict=True))]

    def scores(self, predictions: Predictions, names: Sequence[str]) -> list[Estimate]:
        """Metrics of answers, over the samples that have one."""
        return self.estimated(lambda s, at: score(predictions[s][at], self.label[at], self.like, names))

    def gains(self, first: Predictions, second: Predictions, names: Sequence[str]) -> list[Estimate]:
        """The metrics of the first less those of the second, on the samples that both answer."""

        def apart(s: int, at: np.ndarray) -> np.ndarray:
            both = at[np.isfinite(first[s][at]) & np.isfinite(second[s][at])]
            one, other = (score(p[s][both], self.label[both], self.like, names) for p in (first, second))
            return one - other

        return self.estimated(apart)

    def estimated(self, figures: Callable[[int, np.ndarray], np.ndarray | Sequence[float]]) -> list[Estimate]:
        """Figures of a seed and of the places of some samples, with intervals."""
        known = self.known

        def of(s: int, chosen: np.ndarray) -> np.ndarray:
            return np.asarray(figures(s, known[chosen]), float)

        return estimates(of, len(self.cells), len(known), self.videos)

    def share(self, decisions: Sequence[Decision]) -> Estimate:
        """Of the samples, those that went on to the large model."""
        return self.estimated(lambda s, at: [np.mean(decisions[s].stage[at] > SMALL)])[0]

    @property
    def timed(self) -> bool:
        """Whether the large model's answers carry seconds."""
        return bool(np.nansum(self.cells[0].test.seconds_large) > 0)

    def seconds(self, decisions: Sequence[Decision] | None = None) -> Estimate | None:
        """Model seconds of the whole test split: of these very samples in the stages that they go through.

        Without decisions the large model alone. A look without seconds takes the mean of those that have some; one
        that nobody gave costs nothing.
        """
        if not self.timed:
            return None
        size = len(self.label)

        def spent(s: int, at: np.ndarray) -> list[float]:
            test = self.cells[s].test
            large = _filled(test.seconds_large)
            if decisions is None:
                return [size * float(np.mean(large[at]))]
            stage = decisions[s].stage
            total = _filled(test.seconds_small) + np.where(stage > SMALL, large, 0)
            if test.seconds_verify is not None:
                total = total + np.where(stage == VERIFY, _filled(test.seconds_verify), 0)
            return [size * float(np.mean(total[at]))]

        return self.estimated(spent)[0]


def videos_of(sample_ids: Sequence[str]) -> np.ndarray | None:
    """Which samples are of one video, (N,), by numbers; None where there are too few videos to go by."""
    names, numbers = np.unique([video_of(name) for name in sample_ids], return_inverse=True)
    return numbers if len(names) >= FEWEST_VIDEOS else None


def _filled(seconds: np.ndarray) -> np.ndarray:
    """Seconds (N,), those that are missing by the mean of the others; 0 where there are none."""
    there = np.isfinite(seconds)
    return np.where(there, seconds, seconds[there].mean() if there.any() else 0.0)


def predictions(decisions: Sequence[Decision]) -> Predictions:
    """What cascades answer."""
    return [decision.prediction for decision in decisions]


def score(prediction: np.ndarray, label: np.ndarray, like: str, names: Sequence[str]) -> np.ndarray:
    """Metrics of some answers; those that are none are left out."""
    answered = np.isfinite(prediction)
    if not answered.any():
        return np.full(len(names), np.nan)
    found = metrics.score(prediction[answered], label[answered], like)
    return np.array([found[name] for name in names])


def score_of_shares(shares: metrics.Shares, at: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Metrics of what samples add to their sums (N,), over some of the samples."""
    found = metrics.of_sums({name: metrics.total(name, values[at]) for name, values in shares.items()}, names)
    return np.array([found[name] for name in names], float)
