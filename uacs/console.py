"""Progress on the terminal. Where output goes to a file, a line at the end of each step instead of a bar."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from uacs.cluster.progress import Counts, Progress, Told
    from uacs.cluster.runs import Run
    from uacs.cluster.status import Status

EVERY = 60.0  # seconds between two reports where nobody looks


@contextmanager
def counter(what: str) -> Iterator[Callable[..., None]]:
    """A bar for work that reports (done, of, ...); nothing is shown before the first report."""
    with _bar(what) as update:
        yield lambda done, of, *rest: update(done, of, "")


@contextmanager
def training(what: str) -> Iterator[Callable[[dict], None]]:
    """A bar for a training that reports its steps, and a line for each of its looks at split valid."""
    with _bar(what) as update:

        def hear(news: dict) -> None:
            if "judged" not in news:
                update(news["step"], news["of"], "" if news["loss"] is None else f"loss {news['loss']:.3f}")
                return
            print(f"step {news['step']:4} of {news['of']}   {look_text(news)}   {news['seconds']:.1f} s", flush=True)

        yield hear


def look_text(look: dict) -> str:
    """What a look at split valid found.

    >>> look_text({"acc2": 0.913, "mae": 0.5, "unanswered": 2}), look_text({"acc2": None, "mae": None, "unanswered": 9})
    ('valid Acc2 91.3%, MAE 0.500, 2 unanswered', 'valid: 9 unanswered, no answer is a number yet')
    """
    if look["mae"] is None:
        return f"valid: {look['unanswered']} unanswered, no answer is a number yet"
    lost = f", {look['unanswered']} unanswered" if look["unanswered"] else ""
    return f"valid Acc2 {look['acc2']:.1%}, MAE {look['mae']:.3f}{lost}"


@contextmanager
def cascade(what: str) -> Iterator["Told"]:
    """A line for each stage of a run; where output goes to a file, such lines every minute. One line at the end."""
    started = said = time.perf_counter()
    latest: Progress | None = None
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    bars = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks = [
        bars.add_task(f"{what}, {name}", total=None, said="", visible=False) for name in ("small", "large", "verify")
    ]

    def told(progress: "Progress") -> None:
        nonlocal latest, said
        latest, now = progress, time.perf_counter()
        for task, stage in zip(tasks, stages(progress), strict=True):
            bars.update(task, completed=stage.done, total=stage.expected, said=stage.text, visible=True)
        if bars.disable and now - said >= EVERY:
            said = now
            print(
                "\n".join(f"{what}, {stage.name}: {stage.text}" for stage in stages(progress)),
                file=sys.stderr,
            )

    with bars:
        yield told
    if latest:
        counts, seconds = latest.counts, time.perf_counter() - started
        print(
            f"{what}: {counts.written} of {latest.total} in {seconds:.1f} s  {_counts_text(counts)}".rstrip(),
            file=sys.stderr,
        )


def status_text(run: "Run", status: "Status | None") -> str:
    """What `uacs status` prints: who runs it, how far it is, and what comes next."""
    identity, again = run.manifest["identity"], "the same command again takes it up"
    steps = {"tune thresholds": "trials", "tune ubm": "trials", "study": "steps"}.get(identity["command"])
    lines = [f"{run.folder}: {identity['command']} {identity['dataset']}, split {identity['split']}, id {run.run_id}"]
    last = {"trials": "search.json", "steps": "results.json"}.get(steps or "", "metrics.json")
    grown = steps == "steps" and status and status.state != "finished"  # a study that goes on, after it was finished
    if run.read(last) and not grown:
        lines.append("finished")
    elif status is None:
        lines.append(f"begun, {again}" if steps else f"begun, {len(run.done())} parts written; {again}")
    elif status.alive:
        job = f", job {status.job}" if status.job else ""
        lines.append(f"running on {status.host} as process {status.pid}{job}; last sign {duration(status.age)} ago")
    else:
        ended = {"running": "killed", "finished": "answered, but not summed up"}.get(status.state, status.state)
        when = f"{ended} {duration(status.age)} ago after {duration(status.progress.seconds)}"
        lines.append(f"{when}; {again}" if steps else f"{when}, {len(run.done())} parts written; {again}")
    if status and steps:
        lines.append(f"{status.progress.counts.written} of {status.progress.total} {steps} are over")
    elif status:
        progress = status.progress if status.alive else replace(status.progress, seconds=0.0)  # no rate, no time left
        lines += [f"{stage.name:7} {stage.text}" for stage in stages(progress)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Stage:
    """How far a stage is: samples done, and of how many as far as is known."""

    name: str
    done: int
    expected: int | None
    text: str


def stages(progress: "Progress") -> list[Stage]:
    """The three stages of a run.

    How many samples the large model will be asked about is reckoned from the share so far.
    """
    total, earlier, now, seconds = progress.total, progress.earlier, progress.counts, progress.seconds
    asked = round(total * now.due / now.small) if now.small else None
    twice = round(asked * now.looked_twice / now.asked) if asked and now.asked else None
    share = f"{now.due / now.small:.1%} of the samples" if now.small else ""
    again = f"{now.looked_twice / now.asked:.1%} of these" if now.asked else ""
    return [
        _stage("small", now.small, earlier.small, total, seconds, _some(now.errors, "errors")),
        _stage("large", now.asked, earlier.asked, asked, seconds, share, _some(now.degraded, "degraded")),
        _stage("verify", now.looked_twice, earlier.looked_twice, twice, seconds, again),
    ]


def _stage(name: str, done: int, earlier: int, expected: int | None, seconds: float, *details: str) -> Stage:
    rate = (done - earlier) / seconds if seconds > 0 else 0.0
    words = [f"{done:,}" if expected is None else f"{done:,} of {expected:,}", *details]
    if rate:
        words.append(f"{rate:,.1f}/s")
    if rate and expected and expected > done:
        words.append(f"{duration((expected - done) / rate)} left")
    return Stage(name, done, expected, ", ".join(word for word in words if word))


def duration(seconds: float) -> str:
    """A while in words.

    >>> duration(42), duration(640), duration(9000)
    ('42 s', '11 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" if count else ""


class JsonLines(logging.Formatter):
    """A log record as a line of JSON: time, level, event, and what the record brings besides."""

    STANDARD = frozenset(vars(logging.makeLogRecord({})))

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        brought = {name: value for name, value in vars(record).items() if name not in self.STANDARD}
        said = {"time": record.created, "level": record.levelname.lower(), "event": record.getMessage(), **brought}
        return json.dumps(said, ensure_ascii=False)


def log_json(place: Path) -> None:
    """Log runs as JSON lines to a file, appended, or to stderr if that is `-`. No transcript or media is ever in it."""
    handler = logging.StreamHandler() if str(place) == "-" else logging.FileHandler(place)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("uacs")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def print_epoch(epoch: dict[str, float]) -> None:
    """A line for each epoch of a training."""
    print(
        f"epoch {epoch['epoch']:3.0f}   train loss {epoch['train_loss']:.3f}   valid loss {epoch['valid_loss']:.3f}   "
        f"Acc2 {epoch['valid_acc2']:.1%}   MAE {epoch['valid_mae']:.3f}   {epoch['seconds']:.1f} s",
        flush=True,
    )


def _counts_text(counts: "Counts") -> str:
    shown = [f"{name} {count}" for name, count in counts.settled.items() if count] or [f"asked {counts.asked}"]
    shown += [f"{name} {getattr(counts, name)}" for name in ("errors", "degraded") if getattr(counts, name)]
    return "  ".join(shown)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    started, last = time.perf_counter(), (0, 0, "")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)
    with Bars(
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
