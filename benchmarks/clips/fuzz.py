"""Five thousand clips that are wrong in some way: each comes back, looked at or said to be none, within its bounds.

    python -m benchmarks.clips.fuzz --clips 5000

The tests' zoo (`tests/data/zoo.py`) with bytes flipped, cut, doubled, moved and put in, the numbers of headers among
them; two processes look at them, within five seconds and 256 MiB a clip. The same seed makes the same clips. Fails if
a clip takes longer than its bound, or a sample does not come back; prints Markdown.
"""

import argparse
import random
import struct
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.data.zoo import ZOO
from uacs.data.clips import ClipPool
from uacs.data.extract import BASIC, Wanted
from uacs.data.media import Limits
from uacs.records import Sample

CLOCK, AT_ONCE = 5.0, 250
LIMITS = Limits(clock=CLOCK, bytes=2**28, own=True)
WANTED = Wanted({"audio": BASIC, "vision": BASIC}, 4)
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**24, 65535)


def main() -> None:
    """Make, look and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, ends, held, slowest = random.Random(options.seed), Counter[str](), list[float](), 0.0
    with tempfile.TemporaryDirectory() as folder, ClipPool(LIMITS, 2) as pool:
        beasts = _beasts(Path(folder))
        for start in range(0, options.clips, AT_ONCE):
            samples = [
                _sample(Path(folder), k, beasts, draw) for k in range(start, min(start + AT_ONCE, options.clips))
            ]
            took = _looked(pool, samples, ends)
            slowest = max(slowest, *took)
            held.append(sum(child.memory_info().rss for child in psutil.Process().children()) / 2**20)
            print(f"\r{start + len(samples)} clips", end="", flush=True)
    print(f"\n\n{options.clips} clips, seed {options.seed}: slowest {slowest:.1f} s of {CLOCK:g}; ", end="")
    print(
        f"processes held {held[0]:.0f} MiB after {AT_ONCE} clips, {held[-1]:.0f} at the end, {max(held):.0f} at most\n"
    )
    print("| came to | clips |\n|---|---:|")
    for end, count in ends.most_common():
        print(f"| {end} | {count} |")
    if slowest > CLOCK + 5:
        raise SystemExit("a clip took longer than its bound")


def _looked(pool: ClipPool, samples: list[Sample], ends: Counter[str]) -> list[float]:
    """Look at each by itself in one of the processes, and count what it came to; returns the seconds."""
    took = []

    def one(sample: Sample) -> Sample:
        began = time.perf_counter()
        (found,) = pool.look_at([sample], WANTED)
        took.append(time.perf_counter() - began)
        return found

    with ThreadPoolExecutor(2) as threads:
        looked = list(threads.map(one, samples))
    if [sample.sample_id for sample in looked] != [sample.sample_id for sample in samples]:
        raise SystemExit("samples were lost")
    for sample in looked:
        ends[_end(sample)] += 1
        Path(str(sample.clip)).unlink(missing_ok=True)
    return took


def _end(sample: Sample) -> str:
    fault = sample.footage and sample.footage.fault
    if not fault:
        return "looked at"
    said = fault.removeprefix(f"{sample.clip}: ").partition(";")[0]
    for known in ("not a clip", "the decoder ended", "takes over 5 s", "takes over", "holds neither", "lasts over"):
        if said.startswith(known):
            return known
    return said[:60]


def _beasts(folder: Path) -> list[tuple[str, bytes]]:
    """The zoo's files, those that are some."""
    found = []
    for name, beast in ZOO.items():
        path = folder / name
        beast.make(path)
        if path.is_file() and 0 < path.stat().st_size < 2**20:
            found.append((name, path.read_bytes()))
    return found


def _sample(folder: Path, k: int, beasts: list[tuple[str, bytes]], draw: random.Random) -> Sample:
    name, content = draw.choice(beasts)
    mutated = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        _mutate(mutated, draw)
    path = folder / f"{k}-{name}"
    path.write_bytes(mutated)
    return Sample(str(k), clip=str(path))


def _mutate(content: bytearray, draw: random.Random) -> None:
    """One change, oftener than not where headers lie."""
    size = max(len(content), 1)
    at = draw.randrange(size if draw.random() < 0.4 else min(size, 1200))
    kind = draw.choice(("flip", "number", "cut", "doubled", "noise", "end"))
    if kind == "flip" and at < len(content):
        content[at] ^= 1 << draw.randrange(8)
    elif kind == "number":
        content[at : at + 4] = struct.pack(draw.choice((">I", "<I")), draw.choice(NUMBERS))
    elif kind == "cut":
        del content[at : at + draw.randrange(1, 200)]
    elif kind == "doubled":
        part = content[at : at + draw.randrange(1, 400)]
        content[at:at] = part
    elif kind == "noise":
        content[at : at + 16] = draw.randbytes(16)
    elif draw.random() < 0.3:
        del content[draw.randrange(size) :]


if __name__ == "__main__":
    main()
