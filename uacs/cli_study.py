"""The command `uacs study`: every table and figure of the paper, and what it did not look at."""

import shlex
from pathlib import Path

import click

from uacs.cli_options import FOLDER, PLACE
from uacs.errors import BadInput, WrongUse


@click.command(
    epilog="Example: uacs study data/mosi --config study.yaml --out runs/study, or, after `uacs demo`: "
    "uacs study runs/demo/data --config runs/demo/study.yaml --out runs/study"
)
@click.argument("data", type=PLACE)
@click.option("--config", type=FOLDER, help="What is studied, as YAML: large models, seeds, estimators ...")
@click.option("--mllm", metavar="SPEC", help="The one large model, where the file names none.")
@click.option("--out", type=PLACE, required=True, help="Folder of the study; one begun there goes on.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, as ubm.at_once=4.")
def study(data, config: Path | None, mllm: str | None, out, overrides: tuple[str, ...]) -> None:
    """Train, calibrate, evaluate and replay for every seed, estimator and large model; write the paper's tables.

    DATA is a prepared dataset. OUT/report.html has them all, with intervals, beside the paper's own figures where it
    has some of that dataset; OUT has tables/ and figures/ for papers, and the runs.
    """
    from uacs.config import settings_of
    from uacs.console import cascade, counter
    from uacs.data.prepare import is_prepared
    from uacs.data.prepared import PreparedDataset
    from uacs.study import results
    from uacs.study.conduct import Hearing, conduct
    from uacs.study.layout import Study
    from uacs.study.settings import StudySettings

    words = ["uacs", "study", str(data), *(["--config", str(config)] if config else [])]
    words += [*(["--mllm", mllm] if mllm else []), "--out", str(out)]
    words += [word for override in overrides for word in ("--set", override)]
    if mllm:
        overrides = (f"large.{_name(mllm)}.model={mllm}", *overrides)
    if not config and not overrides:
        raise WrongUse("a study needs a large model; give --mllm SPEC, or a --config that names some")
    settings = settings_of(StudySettings, config, overrides)
    if mllm and len(settings.large) > 1:
        raise WrongUse(f"--mllm {mllm}: the file names large models already; name it there, or leave one of both out")
    if not isinstance(out, Path):
        raise WrongUse(f"--out {out}: trainings write to a folder that every node sees, not to a URI")
    if not is_prepared(data):
        raise BadInput(f"{data}: not prepared, and a study reads it many times; `uacs prepare {data} FOLDER` first")
    found = Study(PreparedDataset(data), settings, out.absolute())
    conduct(found, Hearing(click.echo, cascade, counter))
    click.echo("reckoning: tables, figures, intervals")
    report = results.write(found, shlex.join(words))
    click.echo(f"report: {report}")
    if silent := results.silent(found):
        raise BadInput(f"{silent}: it has answered no test sample; see {out}/large/{silent}/baseline/report.html")


def _name(spec: str) -> str:
    """What a table calls the model of a SPEC: the last of its path, without what a name cannot have."""
    if spec.startswith("recorded:"):
        return "recorded"
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(spec.rstrip("/")).name)
    return name or "large"
