"""The command `uacs`. Each command parses, calls what does the work, prints, and exits with 0, 1 or 2."""

import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click

from uacs.cli_options import FOLDER, PLACE, clear_afterwards, estimator, finite, notes
from uacs.cli_plan import plan
from uacs.cli_serve import deploy, key, serve
from uacs.cli_study import study
from uacs.cli_train import train
from uacs.cli_tune import tune
from uacs.errors import UacsError, WrongUse

FAILED, WRONG, INTERRUPTED = 1, 2, 130
READOUTS, HINTS = ("decode", "trie", "head"), ("numbers", "words", "both")
RESUMED = ("demo", "train ubm", "train mllm", "calibrate", "evaluate", "tune thresholds", "tune ubm", "study")


def main(words: list[str] | None = None) -> None:
    """Run a command, the process's own if none is given.

    Whatever goes wrong is one line on stderr, unless --debug asks for the traceback.
    """
    words = sys.argv[1:] if words is None else words
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        sys.exit(commands.main([w for w in words if w != "--debug"], prog_name="uacs", standalone_mode=False) or 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code, text = INTERRUPTED, "interrupted"
        if _command(words).removeprefix("uacs ") in RESUMED:
            text = "interrupted; the same command again takes it up where it stopped"
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        sys.exit(WRONG)
    except click.ClickException as error:
        code, text = WRONG, f"{error.format_message()} (see --help)"
    except Exception as error:
        if "--debug" in words:
            raise
        code, text = _told(error)
    print(f"{_command(words)}: {text}", file=sys.stderr)
    sys.exit(code)


def _interrupted(number, frame) -> None:
    """What ends a Ray job or a container is heard as Ctrl-C is."""
    raise KeyboardInterrupt


def _command(words: list[str]) -> str:
    """The words of the line that name a command."""
    named: list[str] = ["uacs"]
    place: click.Command = commands
    for word in words:
        if not isinstance(place, click.Group) or word not in place.commands:
            break
        place = place.commands[word]
        named.append(word)
    return " ".join(named)


def _told(error: Exception) -> tuple[int, str]:
    """Exit code and line for an error, looking through what Ray wraps around one of ours."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UacsError):
            return cause.exit_code, str(cause)
        cause = getattr(cause, "cause", None) or cause.__cause__
    if ours := re.findall(r"^uacs\.errors\.\w+: (.+)$", str(error), re.MULTILINE):
        return FAILED, ours[-1]  # from a Ray actor that could not be built, of which only the text is left
    first = str(error).strip().splitlines()[:1]
    return FAILED, f"{type(error).__name__}: {' '.join(first)}; the same with --debug shows where"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="uacs")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error; anywhere on the line.")
def commands() -> None:
    """How positive or negative is this person? A small model answers every clip, a large one those it doubts.

    \b
    Start here:   uacs demo
    Your data:    uacs prepare, uacs train ubm, uacs train mllm, uacs calibrate, uacs evaluate
    Afterwards:   uacs status, uacs report, uacs replay, uacs compare
    Better:       uacs tune thresholds, uacs tune ubm
    The paper:    uacs study
    Over HTTP:    uacs serve, uacs key, uacs deploy, uacs plan
    Trouble:      uacs doctor
    """


def _run_options(function):
    """What calibrate and evaluate share."""
    for option in (
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, as resources.pool=4."
        ),
        click.option("--log-json", type=FOLDER, help="Log the run as JSON lines to this file, or to stderr: -"),
        click.option("--max-errors", help="Samples that may be errors before the run stops, as 10 or 0.5%; 1%."),
        click.option(
            "--verify-prefill/--no-verify-prefill",
            default=None,
            help="Stage 3 reads clip and question anew, as in the paper.",
        ),
        click.option("--hints", type=click.Choice(HINTS), help="How stage 3 is told both answers; numbers."),
        click.option("--readout", type=click.Choice(READOUTS), help="How the large model's answer is read; decode."),
        click.option("--config", type=FOLDER, help="Settings of the run as YAML; --set goes over it."),
        click.option("--out", type=PLACE, required=True, help="Run directory, path or URI; a run begun there goes on."),
        click.option(
            "--adapter",
            "adapters",
            multiple=True,
            type=FOLDER,
            help="Of `uacs train mllm`, over --mllm; of several the one for the dataset answers.",
        ),
        click.option("--verifier", metavar="SPEC", help="Stage 3 by replicas of its own, of this or another model."),
        click.option("--mllm", required=True, metavar="SPEC", help="Folder, hub id, or recorded:FILE.parquet."),
        estimator("the UBM's own, or that of the thresholds"),
        click.option("--ubm", type=FOLDER, required=True, help="A trained UBM."),
    ):
        function = option(function)
    return function


@commands.command(epilog="Example: uacs demo --out runs/demo")
@click.option("--out", type=FOLDER, default=Path("runs/demo"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the corpus and of both models.")
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Who speaks: zh is SIMS's way."
)
@click.option(
    "--model",
    type=click.Choice(["qwen2_5_omni", "humanomni", "videollama2"]),
    default="qwen2_5_omni",
    show_default=True,
    help="Family of the large model, a tiny one of which is trained.",
)
def demo(out: Path, seed: int, language: str, model: str) -> None:
    """The whole story on a corpus that it generates: two models, their cascade, accuracy and run time."""
    from uacs.demo import run

    run(out, seed, language=language, model=model)


@commands.command(epilog="Example: uacs prepare MOSI/Processed/unaligned_50.pkl data/mosi --dataset mosi")
@click.argument("source")
@click.argument("out", type=FOLDER)
@click.option("--dataset", help="mosi, mosei, sims, simsv2, or a name of your own; default: as SOURCE's path has it.")
@click.option("--like", help="For a name of your own: the dataset whose range, language and metrics hold.")
@click.option("--clips", type=FOLDER, help="Folder of VIDEO_ID/CLIP_ID.mp4; default: Raw beside SOURCE.")
@click.option("--audio", type=FOLDER, help=".npz with ids and audio; default: SOURCE's, or computed from the clips.")
@click.option("--vision", type=FOLDER, help=".npz with ids and vision; default: SOURCE's, or computed from the clips.")
@click.option("--column", "columns", multiple=True, metavar="NAME=THEIRS", help="A table's column, as text=transcript.")
@click.option("--extractor", help="What made SOURCE's features; default: MMSA's for the dataset, or the table's name.")
@click.option(
    "--extract",
    multiple=True,
    metavar="MODALITY=SPEC",
    help="What computes features of clips: audio=egemaps, audio=compare, vision=face:FILE, vision=pose:FILE; basic.",
)
@click.option("--cache", metavar="PLACE", help="Folder or URI in which features of clips are kept for the next time.")
@click.option(
    "--speech", metavar="SPEC", help="A speech recogniser's folder or hub id, for clips without a transcript."
)
@click.option("--processes", default=2, show_default=True, help="Processes that decode clips.")
@click.option(
    "--set", "bounds", multiple=True, metavar="KEY=VALUE", help="A bound of decoding one: seconds, mib or clock (s)."
)
def prepare(
    source: str, out: Path, columns: tuple[str, ...], extract: tuple[str, ...], speech, cache, bounds, **settings
) -> None:
    """Check SOURCE, join or compute features, and write OUT, a prepared dataset.

    SOURCE is a pickle of MMSA's, a folder with label.csv, a table (CSV or Parquet), or a folder of clips: a path, or
    a URI.
    """
    from uacs.config import settings_of
    from uacs.console import counter
    from uacs.data.clips import ClipSettings
    from uacs.data.prepare import PrepareSettings
    from uacs.data.prepare import prepare as write

    named = _pairs("--column", columns, "NAME=THEIRS, as text=transcript")
    extracted = _pairs("--extract", extract, "MODALITY=SPEC, as audio=egemaps")
    with counter("preparing") as progress:
        bounded = settings_of(ClipSettings, overrides=bounds)
        decoding = bounded.model_copy(update={"speech": speech or bounded.speech, "cache": cache or bounded.cache})
        told = PrepareSettings(columns=named, extract=extracted, decoding=decoding, **settings)
        dataset = write(source, out, told, progress)
    splits = {name.rpartition("-")[0] for name in dataset.info.parts}
    print(f"{out}: {dataset.info.name}, " + ", ".join(f"{split} {dataset.rows(split)}" for split in sorted(splits)))
    notes(dataset.info.notes)


def _pairs(option: str, given: tuple[str, ...], expected: str) -> dict[str, str]:
    if wrong := [pair for pair in given if "=" not in pair]:
        raise WrongUse(f"{option} {wrong[0]}: expected {expected}")
    return dict(pair.split("=", 1) for pair in given)


@commands.command(
    epilog="Example: uacs calibrate data/mosi --ubm models/ubm --mllm recorded:large.parquet --out runs/cal"
)
@click.argument("data")
@_run_options
@click.option("--split", default="valid", show_default=True)
@click.option(
    "--lambda", "lambda_", type=click.FloatRange(0, 1), callback=finite, help="Eq. 19's λ; default: the dataset's."
)
@click.option("--beta", type=float, callback=finite, default=0.0, show_default=True, help="Eq. 19's β, in nats.")
def calibrate(data, ubm, mllm, verifier, out, split, lambda_, beta, **told) -> None:
    """Ask both models about all of a split and set the thresholds by Eq. 18-19: OUT/thresholds.json."""
    from uacs.cluster import evaluation
    from uacs.console import cascade
    from uacs.data import places

    settings = _settings((mllm, verifier), **told)
    models = _models(data, split, ubm, mllm, verifier, out, settings.decoding.extractors)
    with cascade("calibrating") as progress:
        thresholds = evaluation.calibrate(models, out, settings, lambda_, beta, progress)
    where = places.within(out, "thresholds.json")
    print(f"{where}: tau_small {thresholds.tau_small:.4f}, tau_large {thresholds.tau_large:.4f}")
    notes(thresholds.warnings)


@commands.command(
    epilog="Example: uacs evaluate data/mosi --ubm models/ubm --mllm recorded:large.parquet --out runs/test"
)
@click.argument("data")
@_run_options
@click.option("--thresholds", type=PLACE, help="thresholds.json; default: calibrate on split valid first.")
@click.option("--split", default="test", show_default=True)
@click.option("--all-stages", is_flag=True, help="Ask the large model about every sample, to compare and replay.")
@click.option(
    "--lambda",
    "lambda_",
    type=click.FloatRange(0, 1),
    callback=finite,
    help="Eq. 19's λ where it calibrates; default: the dataset's.",
)
@click.option("--beta", type=float, callback=finite, help="Eq. 19's β where it calibrates, in nats; 0.")
@click.option("--dry-run", is_flag=True, help="Say what it would ask, how long it would take and how much memory.")
def evaluate(data, ubm, mllm, verifier, out, thresholds, split, all_stages, lambda_, beta, dry_run, **told) -> None:
    """Run the cascade over a split; leaves outcomes, metrics.json and report.html in OUT."""
    from uacs.cluster import evaluation
    from uacs.cluster.estimate import estimate, estimate_text
    from uacs.cluster.runs import read_thresholds
    from uacs.cluster.session import ray_session
    from uacs.console import cascade
    from uacs.data import places
    from uacs.report.text import metrics_text

    settings = _settings((mllm, verifier), **told)
    if thresholds and (lambda_, beta) != (None, None):
        raise WrongUse("--thresholds brings its own λ and β; leave --lambda and --beta away")
    given = read_thresholds(thresholds) if thresholds else None
    models = _models(data, split, ubm, mllm, verifier, out, settings.decoding.extractors)
    if dry_run:
        print(estimate_text(estimate(models, thresholds, out, settings, all_stages), settings))
        return
    with ray_session():
        if given is None:
            valid = replace(models, split="valid")
            with cascade("calibrating") as progress:
                given = evaluation.calibrated(valid, out, settings, lambda_, beta or 0.0, progress)
            notes(given.warnings)
        with cascade("evaluating") as progress:
            summary = evaluation.evaluate(models, given, out, settings, all_stages, progress)
    print(metrics_text(summary) + f"\n\nreport: {places.within(out, 'report.html')}")
    unanswered = summary["degraded"] and summary["degraded"] == summary["n"] - summary["stages"]["small"]
    sys.exit(FAILED if unanswered else 0)


@commands.command(epilog="Example: uacs report runs/test")
@click.argument("run", type=PLACE)
def report(run) -> None:
    """Write RUN's report.html anew and print its metrics; of an adapter's folder, its training's."""
    from uacs.cluster.evaluation import rewrite_report
    from uacs.data import places
    from uacs.mllm.adapters import is_adapter
    from uacs.report.text import metrics_text

    if is_adapter(str(run)):
        from uacs.cli_train import write_report

        print(f"report: {write_report(Path(run))}")
        return
    print(metrics_text(rewrite_report(run)) + f"\n\nreport: {places.within(run, 'report.html')}")


@commands.command(epilog="Example: uacs status runs/test")
@click.argument("run", type=PLACE)
def status(run) -> None:
    """Whether RUN is alive, and how far it is.

    Where RAY_ADDRESS names a cluster, what killed drivers left there is removed.
    """
    from uacs.cluster import status as statuses
    from uacs.cluster.runs import Run, exists
    from uacs.console import status_text
    from uacs.data import places

    calibration = places.within(run, "calibration")  # which `evaluate` makes first
    found = Run.open(calibration if not exists(run) and exists(calibration) else run)
    print(status_text(found, statuses.read(found)))
    for name in statuses.reap_cluster():
        print(f"removed {name}, which a driver that was killed left on the cluster")


@commands.command(epilog="Example: uacs replay runs/demo/baseline --calibration runs/demo/calibration --lambda 0.1")
@click.argument("run", type=PLACE)
@click.option("--thresholds", type=PLACE, help="thresholds.json to replay with.")
@click.option(
    "--calibration",
    type=PLACE,
    help="Run of `uacs calibrate` to set thresholds by; default: RUN/calibration, if `evaluate` made it.",
)
@click.option(
    "--lambda", "lambda_", type=click.FloatRange(0, 1), callback=finite, help="Eq. 19's λ; default: the calibration's."
)
@click.option("--beta", type=float, callback=finite, help="Eq. 19's β, in nats; default: the calibration's.")
@click.option("--out", type=FOLDER, help="Folder for the replayed metrics.json and thresholds.json.")
def replay(run, thresholds, calibration, lambda_, beta, out) -> None:
    """What other thresholds would have made of RUN's answers; no model runs.

    RUN is best one of `evaluate --all-stages`; answers that were never asked for are counted, not made up.
    """
    from uacs.cluster import review
    from uacs.cluster.runs import Run, read_thresholds
    from uacs.report.text import metrics_text, missing_text

    if thresholds and (calibration, lambda_, beta) != (None, None, None):
        raise WrongUse("--thresholds brings its own λ and β; leave --calibration, --lambda and --beta away")
    if out:
        review.refuse_to_save(out)
    done = Run.open(run)
    given = read_thresholds(thresholds) if thresholds else review.recalibrated(done, calibration, lambda_, beta)
    summary = review.replay(done, given)
    notes(given.warnings)
    print(f"tau_small {given.tau_small:.4f}, tau_large {given.tau_large:.4f}\n\n{metrics_text(summary)}")
    if said := missing_text(summary["missing"]):
        print(f"note: {said}", file=sys.stderr)
    if out:
        review.save(out, summary, given)
        print(f"\n{out}: metrics.json and thresholds.json of this replay")


@commands.command(epilog="Example: uacs compare runs/demo/evaluation runs/demo/baseline:large")
@click.argument("first")
@click.argument("second")
@click.option("--resamples", default=2000, show_default=True, type=click.IntRange(100), help="Of the bootstrap.")
def compare(first: str, second: str, resamples: int) -> None:
    """FIRST minus SECOND on the samples that both answered: paired bootstrap and McNemar's test.

    Each is RUN for the cascade's answers, RUN:small or RUN:large for one model's.
    """
    from uacs.cluster import review
    from uacs.console import counter
    from uacs.report.text import comparison_text

    with counter("resampling") as progress:
        comparison = review.compare(first, second, resamples, progress)
    print(comparison_text(comparison, first, second))


@commands.command(epilog="Example: uacs doctor --data data/mosi --ubm models/ubm --mllm recorded:large.parquet")
@click.option("--data", help="A dataset to look over.")
@click.option("--dataset", help="Of data that is not prepared: as `uacs prepare` takes it.")
@click.option("--like", help="Of data that is not prepared: as `uacs prepare` takes it.")
@click.option("--ubm", type=FOLDER, help="A trained UBM to load and to ask.")
@click.option("--mllm", metavar="SPEC", help="A large model to load and to ask.")
@click.option("--config", type=FOLDER, help="Settings of a run as YAML; --set goes over it.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, as resources.pool=4.")
def doctor(data, dataset, like, ubm, mllm, config, overrides) -> None:
    """Look over this machine, Ray, and what you name: what works, what does not, and the mend."""
    from uacs.config import evaluation_settings
    from uacs.data.prepare import PrepareSettings
    from uacs.doctor import examine

    findings, raw = 0, PrepareSettings(dataset=dataset, like=like)
    for finding in examine(evaluation_settings(config, overrides), data, ubm, mllm, raw):
        print(f"{finding.verdict:5} {finding.what}", flush=True)
        findings += finding.verdict == "fail"
    sys.exit(FAILED if findings else 0)


def _settings(
    large: tuple[str | None, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    max_errors: str | None,
    log_json: Path | None,
    readout: str | None,
    hints: str | None,
    verify_prefill: bool | None,
    adapters: tuple[Path, ...] = (),
    estimator: str | None = None,
):
    """The run's settings; an option of its own goes over --set, which goes over the file. large are its SPECs."""
    from uacs import console
    from uacs.config import evaluation_settings

    if log_json:
        console.log_json(log_json)
    asked: dict[str, object] = {"readout": readout, "hints": hints, "verify_prefill": verify_prefill}
    asked["adapters"] = [*map(str, adapters)] or None
    if (idle := [name for name, value in asked.items() if value is not None]) and not any(map(_is_asked, large)):
        option = {"adapters": "adapter"}.get(idle[0], idle[0])
        raise WrongUse(f"--{option.replace('_', '-')}: recorded answers are as they were taken; leave it away")
    named = {"max_errors": max_errors, "estimator": estimator} | {
        f"mllm.{name}": value for name, value in asked.items()
    }
    return evaluation_settings(
        config, overrides + tuple(f"{key}={value}" for key, value in named.items() if value is not None)
    )


def _is_asked(spec: str | None) -> bool:
    """Whether a SPEC is of a model that is asked, rather than of answers that it gave."""
    from uacs.mllm import RECORDED

    return spec is not None and not spec.startswith(RECORDED)


def _models(data: str, split: str, ubm: Path, mllm: str, verifier: str | None, out, extractors: tuple[str, ...]):
    from uacs.cluster.evaluation import Models
    from uacs.cluster.runs import Run, exists, refuse_foreign
    from uacs.cluster.status import refuse_alive
    from uacs.console import counter
    from uacs.data import places
    from uacs.data.extract import specs_of
    from uacs.data.prepare import PrepareSettings, open_dataset, recognised
    from uacs.ubm.settings import load_config

    refuse_foreign(out)
    for run in (out, places.within(out, "calibration")):
        if exists(run):
            refuse_alive(Run.open(run))  # what it reads is not to be prepared anew beneath it
    clear_afterwards(out)
    trained_on, named = load_config(ubm), recognised(data)
    dataset, like = (named, named) if named else (trained_on.dataset, trained_on.like)
    names = {modality: info.extractor for modality, info in trained_on.features.items()}
    told = PrepareSettings(dataset=dataset, like=like, extract=specs_of(names, extractors))
    with counter("preparing") as progress:
        prepared = open_dataset(data, out, told, progress, later=True)
        return Models(prepared, split, ubm, mllm, verifier)


for command in (serve, deploy, key, plan):
    commands.add_command(command)
commands.add_command(train)
commands.add_command(tune)
commands.add_command(study)
