"""The commands `uacs tune`: what is chosen by one split, and reported on another."""

import click

from uacs.cli_options import PLACE, SHARE, finite, notes
from uacs.errors import WrongUse

RULES = ("search", "exact", "means", "mean", "gaussian", "quantile", "learned", "risk")


@click.group()
def tune() -> None:
    """Search for thresholds, or for a small model, by accuracy and run time."""


def _objective_options(function):
    """What both searches are told of what is wanted."""
    for option in (
        click.option(
            "--price",
            "prices",
            multiple=True,
            metavar="STAGE=PRICE",
            help="Of a sample in stage small, large or verify, as large=0.002; default: the seconds measured.",
        ),
        click.option("--floor", type=SHARE, help="Wanted: the cheapest whose metric is no worse, as 0.85 or 85%."),
        click.option("--budget", type=SHARE, help="Wanted: the best within this run time, as 0.4 or 40%."),
        click.option("--weight", type=SHARE, help="Wanted: the metric minus so much times the run time."),
        click.option("--metric", default="acc2", show_default=True, help="A metric of the dataset."),
        click.option("--test", type=PLACE, help="Run of `uacs evaluate --all-stages` to report on."),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
        click.option("--out", type=PLACE, required=True, help="Folder, path or URI; a search begun there goes on."),
    ):
        function = option(function)
    return function


@tune.command(
    epilog="Run time is relative to the large model alone: 1 is asking it about everyone. Without --weight, --budget "
    "or --floor the search is for the front of both, and chooses the cheapest as good as the large model alone. "
    "Example: uacs tune thresholds runs/demo/calibration --test runs/demo/baseline --out runs/tuned"
)
@click.argument("run", type=PLACE)
@_objective_options
@click.option("--rule", type=click.Choice(RULES), default="search", show_default=True, help="By what to choose.")
@click.option("--trials", default=200, show_default=True, type=click.IntRange(1), help="Of each search.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(1), help="Searches: seed, seed + 1 ...")
@click.option(
    "--knobs",
    type=click.Choice(["each", "shared"]),
    default="each",
    show_default=True,
    help="λ and β for each model, or one pair for both as in Eq. 19.",
)
@click.option("--lambda", "lambda_", type=click.FloatRange(0, 1), callback=finite, help="Rules means and risk: λ.")
@click.option("--beta", type=float, callback=finite, default=0.0, show_default=True, help="Rules means, mean, risk: β.")
@click.option("--share", type=SHARE, default=0.3, show_default=True, help="Rule quantile: how many are asked.")
@click.option("--alpha", type=SHARE, default=0.1, show_default=True, help="Rule risk: how many kept may be wrong.")
@click.option("--delta", type=SHARE, default=0.1, show_default=True, help="Rule risk: how likely that may fail.")
def thresholds(
    run, out, seed, test, metric, weight, budget, floor, prices, rule, trials, repeats, knobs, **rule_settings
) -> None:
    """Choose both thresholds on RUN's answers: OUT/thresholds.json, which `uacs evaluate` takes as it is.

    RUN is one of `uacs calibrate`, or of `uacs evaluate --all-stages` with its calibration within, which is then the
    test as well. No model runs.
    """
    from uacs.cluster.choices import grounds, rule_settings_of
    from uacs.cluster.search_thresholds import ThresholdSearch
    from uacs.cluster.tuning import tune_thresholds
    from uacs.console import counter
    from uacs.data import places
    from uacs.report.search_text import thresholds_text

    objective = _objective(metric, weight, budget, floor)
    given = grounds(run, test, _prices(prices))
    settings = ThresholdSearch(knobs=knobs, trials=trials, seed=seed, repeats=repeats)
    told = rule_settings_of(given, **rule_settings, seed=seed)
    with counter("searching") as progress:
        view = tune_thresholds(given, out, settings, objective, rule, told, progress)
    notes(list(view.warnings))
    print(thresholds_text(view))
    print(f"\n{places.within(out, 'thresholds.json')}\nreport: {places.within(out, 'report.html')}")


def _objective(metric: str, weight: float | None, budget: float | None, floor: float | None):
    from uacs.cascade.objectives import Objective

    named = {"weight": weight, "budget": budget, "floor": floor}
    given = {kind: value for kind, value in named.items() if value is not None}
    if len(given) > 1:
        raise WrongUse(f"--{' and --'.join(given)}: a search is after one thing; give one of them")
    kind, value = next(iter(given.items()), ("front", None))
    return Objective(kind, value, metric)  # type: ignore[arg-type]


def _prices(words: tuple[str, ...]) -> dict[str, float]:
    prices = {}
    for word in words:
        stage, _, price = word.partition("=")
        try:
            prices[stage] = float(price)
        except ValueError:
            raise WrongUse(f"--price {word}: expected STAGE=PRICE, as large=0.002") from None
    return prices
