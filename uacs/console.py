"""Progress on the terminal. Where output goes to a file, a line at the end of each step instead of a bar."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from uacs.records import STAGES

if TYPE_CHECKING:
    from uacs.cluster.pipeline import PartDone


@contextmanager
def counter(what: str) -> Iterator[Callable[..., None]]:
    """A bar for work that reports (done, of, ...); nothing is shown before the first report."""
    with _bar(what) as update:
        yield lambda done, of, *rest: update(done, of, "")


@contextmanager
def cascade(what: str) -> Iterator[Callable[["PartDone | int"], None]]:
    """A bar for a run: samples done, and how many each stage settled."""
    total, done = 0, 0
    counts: Counter[str] = Counter()
    with _bar(what) as update:

        def progress(news: "PartDone | int") -> None:
            nonlocal total, done
            if isinstance(news, int):
                total = news
            else:
                done += news.rows
                counts.update(news.counts)
            update(done, total, _counts_text(counts))

        yield progress


def print_epoch(epoch: dict[str, float]) -> None:
    """A line for each epoch of a training."""
    print(
        f"epoch {epoch['epoch']:3.0f}   train loss {epoch['train_loss']:.3f}   valid loss {epoch['valid_loss']:.3f}   "
        f"Acc2 {epoch['valid_acc2']:.1%}   MAE {epoch['valid_mae']:.3f}   {epoch['seconds']:.1f} s",
        flush=True,
    )


def _counts_text(counts: Counter) -> str:
    shown = [f"{name} {counts[name]}" for name in STAGES if counts[name]] or [f"asked {counts['asked']}"]
    shown += [f"{name} {counts[name]}" for name in ("errors", "degraded") if counts[name]]
    return "  ".join(shown)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    started, last = time.perf_counter(), (0, 0, "")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None, detail="", visible=False)

        def update(done: int, of: int, detail: str) -> None:
            nonlocal last
            last = (done, of, detail)
            bar.update(task, completed=done, total=of, detail=detail, visible=True)

        yield update
    done, of, detail = last
    if of:
        print(f"{what}: {done} of {of} in {time.perf_counter() - started:.1f} s  {detail}".rstrip(), file=sys.stderr)
