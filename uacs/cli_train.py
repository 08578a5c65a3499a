"""`uacs train`: a small model of one's own, and an adapter that makes a large one the dataset's expert."""

import json
from pathlib import Path

import click

from uacs.cli_options import FOLDER, clear_afterwards, estimator, notes
from uacs.errors import WrongUse


def _workers(shared: str, device: str):
    """How many train together."""
    told = f"Ray workers that share every {shared}; with --set {device}=cuda each has a GPU of its own."
    return click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help=told)


@click.group()
def train() -> None:
    """Train a model."""


@train.command(epilog="Example: uacs train ubm data/mosi --preset mosi --out models/ubm --set seed=1112")
@click.argument("data")
@click.option("--out", type=FOLDER, required=True, help="Folder of the UBM; a training cut off there goes on.")
@click.option("--preset", help="Table I's column: mosi, mosei or sims; default: the dataset's.")
@click.option("--text-encoder", help="A BERT's folder or hub id; default: bert-base-uncased or -chinese.")
@estimator("cbe; ev trains an ensemble besides")
@_workers("batch", "device")
@click.option(
    "--folds",
    type=click.IntRange(2),
    metavar="K",
    help="Then train K more, each without a K-th of the videos, to answer just these: OUT/out_of_fold.parquet.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One training setting, as seed=1112.")
def ubm(
    data: str,
    out: Path,
    preset: str | None,
    text_encoder: str | None,
    workers: int,
    folds: int | None,
    estimator: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Train the small model on DATA's split train, stopped by split valid."""
    from uacs.console import counter, print_epoch
    from uacs.data.prepare import PrepareSettings, open_dataset, recognised
    from uacs.ubm.folder import DEFAULT_ENCODERS
    from uacs.ubm.settings import load_config, training_settings
    from uacs.ubm.training import best_epoch

    if folds and workers > 1:
        mend = f"leave --folds out, and once that is trained leave --workers {workers} out instead"
        raise WrongUse(f"--folds {folds}: folds are trained by one worker; {mend}")
    overrides += (f"estimator={estimator}",) if estimator else ()
    if folds and training_settings("mosi", list(overrides)).estimator == "ev":
        raise WrongUse(
            f"--folds {folds}: a fold's UBM has no ensemble to be unsure by; train folds by another estimator"
        )
    clear_afterwards(out)
    training_settings(preset or "mosi", list(overrides))  # a wrong option is said before anything is prepared
    with counter("preparing") as progress:
        dataset = open_dataset(data, out, PrepareSettings(dataset=recognised(data) or preset), progress)
    settings = training_settings(preset or dataset.info.kind.preset, list(overrides))
    encoder = text_encoder or DEFAULT_ENCODERS[dataset.info.language]
    if workers > 1 and Path(encoder).is_dir():
        encoder = str(Path(encoder).absolute())  # as the workers name it, so that a training that is there is found
    folded = None
    if folds:
        from uacs.ubm.folds import train as train_folds

        folded = train_folds(
            dataset, encoder, settings, out, folds, print_epoch, lambda fold: click.echo(f"fold {fold} of {folds}")
        )
        epochs = folded.epochs
    else:
        epochs = _trained(dataset, encoder, settings, out, workers)
    if (own := load_config(out).estimator) != settings.estimator:
        notes([f"{out} was trained before, its own estimator stays {own}: name --estimator {settings.estimator}"])
    best = epochs[best_epoch(epochs)]
    print(f"{out}: epoch {best['epoch']:.0f} is kept, valid Acc2 {best['valid_acc2']:.1%}, MAE {best['valid_mae']:.3f}")
    if folded:
        print(f"{folded.answers}: {folded.answered} samples, each answered by one of {folds} that never saw its video")
        notes(folded.notes)


def _trained(dataset, encoder: str, settings, out: Path, workers: int) -> list:
    """The epochs of a UBM that is trained, alone or by several, with its ensemble where its estimator is one's."""
    from uacs.console import print_epoch

    def one(settings, out, without=frozenset()):
        if workers == 1:
            from uacs.ubm.training import train

            return train(dataset, encoder, settings, out, print_epoch, without=without)
        from uacs.cluster.training import train as train_together

        return train_together(dataset, encoder, settings, out, workers, print_epoch, without)

    if settings.estimator != "ev":
        return one(settings, out)
    from uacs.ubm import ensemble

    said = f"of {settings.members} of the ensemble"
    return ensemble.train(dataset, encoder, settings, out, one, lambda k: click.echo(f"{k} {said}"))


@train.command(epilog="Example: uacs train mllm data/mosi --model models/HumanOmni-7B --out models/humanomni-mosi")
@click.argument("data")
@click.option("--model", required=True, metavar="SPEC", help="The base: a folder or hub id.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the adapter; a training cut off there goes on.")
@click.option(
    "--second-looks",
    type=FOLDER,
    help="The small model's answers to split train, as `uacs train ubm --folds` leaves them: stage 3 is trained, too.",
)
@_workers("step", "mllm.device")
@click.option(
    "--deepspeed", metavar="NAME", help="zero2, zero3, zero2-offload, zero3-offload, or a config's JSON file."
)
@click.option("--dry-run", is_flag=True, help="Say what is trained and how much memory a step takes; train nothing.")
@click.option("--config", type=FOLDER, help="Settings as YAML; --set goes over it.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, as rank=16 or mllm.frames=8."
)
def mllm(
    data: str,
    model: str,
    out: Path,
    second_looks: Path | None,
    workers: int,
    deepspeed: str | None,
    dry_run: bool,
    config: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Adapt a large model to DATA by LoRA: learns from split train, the best by split valid is kept."""
    from uacs.config import settings_of
    from uacs.console import counter, look_text, training
    from uacs.data.prepare import PrepareSettings, open_dataset, recognised
    from uacs.mllm import RECORDED, lora
    from uacs.mllm.adapters import is_adapter
    from uacs.mllm.engines import deepspeed_config, import_deepspeed
    from uacs.mllm.finetuning import train as train_mllm
    from uacs.mllm.finetuning_settings import FinetuningSettings, Training

    settings = settings_of(FinetuningSettings, config, overrides)
    lora.needed()
    sharded = deepspeed_config(deepspeed) if deepspeed else None
    if sharded:
        import_deepspeed(settings.mllm.device)
    if is_adapter(model):
        raise WrongUse(f"--model {model}: an adapter; name its base")
    if model.startswith(RECORDED):
        raise WrongUse(f"--model {model}: recorded answers learn nothing; name the model that gave them")
    if dry_run:
        from uacs.mllm.sizing import need

        print(need(model, settings))
        return
    clear_afterwards(out)
    with counter("preparing") as progress:
        dataset = open_dataset(data, out, PrepareSettings(dataset=recognised(data)), progress)
    task = Training(dataset, model, settings, out, second_looks, sharded)
    with training("training") as progress:
        if workers == 1 and not sharded:
            record = train_mllm(task, progress)
        else:
            from uacs.cluster.finetuning import train as train_together

            record = train_together(task, workers, progress)
    best = record["best"]
    write_report(out)
    notes(record["notes"])
    kept = f"step {best['step']} of {len(record['steps'])} is kept, {look_text(best)}"
    print(f"{out}: {kept}; report: {out / 'report.html'}")


def write_report(out: Path) -> Path:
    """Write the report of a finished training, from its own files; returns its place."""
    from uacs.mllm.adapters import manifest
    from uacs.report.training_page import page

    report, record = out / "report.html", json.loads((out / "training.json").read_text())
    report.write_text(page(record, manifest(out).model_dump()))
    return report
