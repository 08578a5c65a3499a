"""The commands `uacs tune`: what is chosen by one split, and reported on another."""

from pathlib import Path

import click

from uacs.cli_options import FOLDER, PLACE, SHARE, clear_afterwards, estimator, finite, notes
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
            help="Of a sample in each stage: small=0, large=0.02 and verify=0.03, say; default: the seconds measured.",
        ),
        click.option("--floor", type=SHARE, help="Wanted: the cheapest whose metric is no worse, as 0.85 or 85%."),
        click.option("--budget", type=SHARE, help="Wanted: the best within this run time, as 0.4 or 40%."),
        click.option("--weight", type=SHARE, help="Wanted: the metric minus so much times the run time."),
        click.option("--metric", default="acc2", show_default=True, help="A metric of the dataset."),
        click.option("--test", type=PLACE, help="Run of `uacs evaluate --all-stages` to report on."),
        click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
        click.option("--out", type=PLACE, required=True, help="Folder; a search that was begun there goes on."),
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
@click.option("--trials", default=200, show_default=True, type=click.IntRange(1), help="Of a search.")
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


@tune.command(
    epilog="Example: uacs tune ubm runs/demo/data --calibration runs/demo/calibration --test runs/demo/baseline "
    "--around runs/demo/ubm --out runs/tuned-ubm --trials 8"
)
@click.argument("data")
@click.option("--calibration", type=PLACE, required=True, help="Run of `uacs calibrate`: the large model's answers.")
@_objective_options
@click.option("--preset", help="Table I's column to search around: mosi, mosei or sims; default: the dataset's.")
@click.option("--around", type=FOLDER, help="A trained UBM whose settings and encoder to search around instead.")
@click.option("--text-encoder", help="A BERT's folder or hub id; default: bert-base-uncased or -chinese.")
@estimator("cbe, or that of --around")
@click.option("--trials", default=20, show_default=True, type=click.IntRange(1), help="Trainings; raise it to go on.")
@click.option("--at-once", default=2, show_default=True, type=click.IntRange(1), help="Trainings at the same time.")
@click.option("--gpus", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="Share of a GPU for each.")
@click.option("--grace", default=3, show_default=True, type=click.IntRange(1), help="Epochs before ASHA may stop one.")
@click.option("--reduction", default=3.0, show_default=True, type=click.FloatRange(1, min_open=True), help="ASHA's η.")
@click.option("--repeats", default=1, show_default=True, type=click.IntRange(0), help="Of the best, with other seeds.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A training setting, as max_epochs=30.")
def ubm(
    data,
    calibration,
    out,
    seed,
    test,
    metric,
    weight,
    budget,
    floor,
    prices,
    preset,
    around,
    text_encoder,
    estimator,
    overrides,
    **search,
) -> None:
    """Search for a small model's learning rates, decays and dropout by the best cascade that it makes possible.

    Each trial is a training on DATA, of which ASHA stops those that fall behind. OUT/ubm and OUT/thresholds.json are
    for `uacs evaluate`, as they are.
    """
    from uacs.cluster.choices import grounds
    from uacs.cluster.runs import Run, exists
    from uacs.cluster.search_ubm import SearchSettings
    from uacs.cluster.status import refuse_alive
    from uacs.cluster.tuning_ubm import tune_ubm
    from uacs.data.prepare import PrepareSettings, open_dataset, recognised
    from uacs.report.search_text import trial_text, ubm_text
    from uacs.ubm.folder import DEFAULT_ENCODERS
    from uacs.ubm.settings import load_config, overridden, training_settings

    if not isinstance(out, Path):
        raise WrongUse(f"--out {out}: trainings write to a folder that every node sees, not to a URI")
    objective = _objective(metric, weight, budget, floor)
    if preset and around:
        raise WrongUse("--preset and --around: a search is around one of them")
    overrides += (f"estimator={estimator}",) if estimator else ()
    known = load_config(around) if around else None
    training_settings(preset or "mosi", list(overrides))  # a wrong option is said before anything is prepared
    if wrong := [word for word in overrides if word.startswith("device=")]:
        raise WrongUse(f"--set {wrong[0]}: a trial trains on a GPU, or a share of one, by --gpus")
    given = grounds(calibration, test, _prices(prices))
    if exists(out):
        refuse_alive(Run.open(out))  # what its trials read is not to be prepared anew beneath them
    clear_afterwards(out)
    dataset = open_dataset(data, out, PrepareSettings(dataset=recognised(data) or given.calibration.like))
    start = known.training if known else training_settings(preset or dataset.info.kind.preset)
    base = overridden(start, list(overrides))
    if base.estimator == "ev":
        raise WrongUse("--estimator ev: a trial would be an ensemble; search by another, and train the best with ev")
    encoder = text_encoder or (known.text_encoder if known else DEFAULT_ENCODERS[dataset.info.language])
    settings = SearchSettings(
        seed=seed, threads=base.threads if any("threads" in o for o in overrides) else 1, **search
    )
    over = 0

    def told(row: dict, last: bool) -> None:
        nonlocal over
        over += last
        print(trial_text(row, metric, last, over, settings.trials + settings.repeats), flush=True)

    view = tune_ubm(dataset, encoder, base, given, out, settings, objective, told)
    notes(list(view.warnings))
    print(f"\n{ubm_text(view)}\n\n{out / 'ubm'}, {out / 'thresholds.json'}\nreport: {out / 'report.html'}")


def _objective(metric: str, weight: float | None, budget: float | None, floor: float | None):
    from uacs.cascade.objectives import Objective

    named = {"weight": weight, "budget": budget, "floor": floor}
    given = {kind: value for kind, value in named.items() if value is not None}
    if len(given) > 1:
        raise WrongUse(f"--{' and --'.join(given)}: a search is after one thing; give one of them")
    kind, value = next(iter(given.items()), ("front", None))
    return Objective(kind, value, metric)  # type: ignore[arg-type]


def _prices(words: tuple[str, ...]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for word in words:
        stage, _, price = word.partition("=")
        try:
            prices[stage] = float(price)
        except ValueError:
            raise WrongUse(f"--price {word}: expected STAGE=PRICE, as large=0.002") from None
    return prices
