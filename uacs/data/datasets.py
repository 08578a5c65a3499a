"""What sets one dataset apart from another: range and language. Its metric rules stand in `uacs.metrics`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetKind:
    """A dataset's score range and the language of its transcripts."""

    score_range: tuple[float, float] = (-3.0, 3.0)
    language: str = "en"


DATASETS = {
    "mosi": DatasetKind(),
    "mosei": DatasetKind(),
    "sims": DatasetKind(score_range=(-1.0, 1.0), language="zh"),
}


def kind(name: str) -> DatasetKind:
    """The dataset of that name; a name that is not listed is English in [-3, 3]."""
    return DATASETS.get(name, DatasetKind())
