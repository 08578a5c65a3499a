"""What a kill -9 costs: Ray Data's own job checkpoint, in two ways of reading, against one file a part.

    python -m benchmarks.ledger --out /tmp/ledger

5,000 rows in 20 Parquet files go through two actors that take a millisecond a row and note each row; the driver is
killed when half of the rows are noted, and started again. Prints rows that were noted twice and how long the second
start took. "files" is what U-ACS does: an actor writes a part aside and renames it, a resume lists the folder.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS, PARTS, EACH = 5_000, 20, 0.001  # seconds a row
WAYS = ("files", "checkpoint", "checkpoint, old reader")


class Work:
    """Takes its time over a batch and notes each row of it."""

    def __init__(self, notes: str, out: str | None = None):
        self.notes, self.out = Path(notes), out

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.out:
            part = batch["part"][0].as_py()
            batch = pq.read_table(part)
        time.sleep(EACH * len(batch))
        with (self.notes / str(os.getpid())).open("a") as file:
            file.writelines(f"{name}\n" for name in batch["sample_id"].to_pylist())
        if self.out:
            aside = Path(self.out) / f".{Path(part).name}"
            pq.write_table(batch, aside)
            aside.rename(Path(self.out) / Path(part).name)
            return pa.table({"part": [part]})
        return batch


def main() -> None:
    """Kill and resume each way, once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    data = (options.out / "data").absolute()
    if options.way:
        drive(options.way, data, options.out.absolute() / options.way.replace(", ", "-").replace(" ", "-"))
        return
    data.mkdir(parents=True, exist_ok=True)
    for part in range(PARTS):
        ids = [f"{part}_{row}" for row in range(ROWS // PARTS)]
        pq.write_table(pa.table({"sample_id": ids}), data / f"{part:05d}.parquet")
    columns = ("way", "noted when killed", "noted twice", "rows at the end", "unique", "second start, s")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for way in WAYS:
        print(f"| {way} | {' | '.join(map(str, killed_and_resumed(options.out, way)))} |", flush=True)


def killed_and_resumed(out: Path, way: str) -> tuple:
    """The row of the table."""
    folder = out.absolute() / way.replace(", ", "-").replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.ledger", "--out", str(out), "--way", way]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while len(noted(folder)) < ROWS // 2 and driver.poll() is None:
        time.sleep(0.02)
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # Ray's processes go after their driver
    first, started = len(noted(folder)), time.perf_counter()
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - started
    ids = [
        row for file in (folder / "out").glob("**/*.parquet") for row in pq.read_table(file)["sample_id"].to_pylist()
    ]
    return first, len(noted(folder)) - ROWS, len(ids), len(set(ids)), f"{seconds:.1f}"


def noted(folder: Path) -> list[str]:
    """Every row that was ever worked on."""
    return [line for file in (folder / "notes").glob("*") for line in file.read_text().splitlines()]


def drive(way: str, data: Path, folder: Path) -> None:
    """One driver."""
    import uacs.cluster  # noqa: F401  sets Ray's environment

    import ray  # isort: skip
    from ray.data import ActorPoolStrategy, DataContext  # isort: skip
    from ray.data.checkpoint import CheckpointConfig  # isort: skip

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    notes, out = folder / "notes", folder / "out"
    notes.mkdir(parents=True, exist_ok=True)
    out.mkdir(exist_ok=True)
    pool = dict(compute=ActorPoolStrategy(size=2), num_cpus=0.5, batch_format="pyarrow")
    if way == "files":
        left = [{"part": str(p)} for p in sorted(data.glob("*.parquet")) if not (out / p.name).exists()]
        found = ray.data.from_items(left, override_num_blocks=len(left))
        arguments = {"notes": str(notes), "out": str(out)}
        list(found.map_batches(Work, fn_constructor_kwargs=arguments, batch_size=1, **pool).iter_rows())
        return
    context.checkpoint_config = CheckpointConfig(
        id_column="sample_id", checkpoint_path=str(folder / "checkpoint"), delete_checkpoint_on_success=False
    )
    if way == "checkpoint":
        found = ray.data.read_parquet(str(data)).repartition(target_num_rows_per_block=ROWS // PARTS)
    else:
        context.use_datasource_v2 = False
        found = ray.data.read_parquet(str(data), override_num_blocks=PARTS)
    arguments = {"notes": str(notes)}
    found.map_batches(Work, fn_constructor_kwargs=arguments, batch_size=ROWS // PARTS, **pool).write_parquet(str(out))


if __name__ == "__main__":
    main()
