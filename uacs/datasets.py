"""What sets one dataset apart from another. A new dataset is one entry here."""

from dataclasses import dataclass

from uacs.errors import WrongUse


@dataclass(frozen=True)
class DatasetKind:
    """A dataset's score range and language, and which metrics, threshold rule and training preset it takes.

    rules names the metrics (`uacs.metrics.RULES`), lambda_ is Eq. 19's λ where none is given, preset is
    Table I's column. The language decides the prompts' words and which BERT reads the transcripts.
    """

    score_range: tuple[float, float]
    language: str
    rules: str
    lambda_: float
    preset: str


DATASETS = {
    "mosi": DatasetKind((-3.0, 3.0), "en", rules="mosi", lambda_=0.1, preset="mosi"),
    "mosei": DatasetKind((-3.0, 3.0), "en", rules="mosi", lambda_=0.5, preset="mosei"),
    "sims": DatasetKind((-1.0, 1.0), "zh", rules="sims", lambda_=0.2, preset="sims"),
    "simsv2": DatasetKind((-1.0, 1.0), "zh", rules="sims", lambda_=0.2, preset="sims"),
}
"""λ of MOSI and SIMS are the paper's; it gives none for MOSEI."""


def kind(name: str) -> DatasetKind:
    """The dataset of that name; raises `WrongUse` naming those that there are.

    >>> kind("sims").score_range
    (-1.0, 1.0)
    """
    if name not in DATASETS:
        raise WrongUse(f"no dataset '{name}'; there is {', '.join(DATASETS)}, and --like NAME says whose rules hold")
    return DATASETS[name]
