"""Every benchmark of speed, side by side, in one go.

    make bench                                              all parts, on runs/demo
    python -m benchmarks.speed --parts small large          some parts, by name
    python -m benchmarks.speed --parts small --device cuda  on a GPU

Each figure is measured in turns with what it is compared to, and is the middle of some rounds, with the least and the
greatest beside it. A part is a process of its own. OUT/bench.json and OUT/bench.md have what was measured last of
each part, with machine and versions; nothing else should run meanwhile.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

from benchmarks.speed.machine import machine
from benchmarks.speed.sides import Row, Spread


@dataclass(frozen=True)
class Part:
    """A module of this folder whose `measure` yields rows, what it is about, and options besides folder and rounds."""

    about: str
    rounds: int = 3
    options: list[str] = field(default_factory=list)


PARTS = {
    "small": Part("The UBM's predictor over its bare modules, and its text encoder by other means", 3, ["device"]),
    "learning": Part("The UBM's training over a plain PyTorch loop", 3, ["device"]),
    "large": Part("The large model's arithmetic over what the machine multiplies", 3, ["device"]),
    "pool": Part("Ray Data's pool over the predictor", 2),
    "cascade": Part("A whole evaluation over its stages alone, and over the large model alone", 1),
    "startup": Part("What comes before the first answer", 1, ["demo"]),
    "where": Part("Where the time of an evaluation and of a request goes", 1, ["demo"]),
    "plan": Part("What `uacs plan` reckons over what an endpoint does", 1, ["demo"]),
    "service": Part("What HTTP and Ray cost a request", 2, ["demo"]),
    "growth": Part("Ten times the samples, and more", 1, ["most"]),
    "selfmm": Part("MMSA's Self-MM: the same data and encoder", 3, ["mmsa_python", "pickle", "encoder"]),
}
OPTIONAL = ("selfmm",)  # wants an environment of its own


def main() -> None:
    """Measure the parts, one after the other, and write what was found; exit code 1 if one could not be measured."""
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        one(options.one, options)
        return
    failed = []
    for name in options.parts:
        if name in OPTIONAL and not options.mmsa_python:
            print(f"{name}: left out; name the Python that has MMSA with --mmsa-python (docs/speed.md)")
            continue
        print(f"{name}: {PARTS[name].about.lower()}", flush=True)
        words = [sys.executable, "-m", "benchmarks.speed", "--one", name, *sys.argv[1:]]
        if subprocess.run(words).returncode:
            failed.append(name)
    files = {f"{name}{on}": options.out / f"bench-{name}{on}.json" for name in PARTS for on in ("", "-cuda")}
    found = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    (options.out / "bench.json").write_text(json.dumps(found, indent=1))
    (options.out / "bench.md").write_text(markdown(found))
    print(f"\n{markdown(found)}\nwritten to {options.out / 'bench.md'} and bench.json")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def parsed() -> argparse.Namespace:
    """The command's words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for models, runs and results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, help="of every part, if not its own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of parts small, learning and large")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="what `uacs demo` left")
    parser.add_argument("--most", type=int, default=20_000, help="samples that part growth ends with")
    parser.add_argument("--mmsa-python", type=Path, help="the Python of an environment that has MMSA 2.2.1")
    parser.add_argument("--pickle", help="part selfmm: MOSI in MMSA's layout; generated if none is named")
    parser.add_argument("--encoder", help="part selfmm: a BERT's folder or hub id")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def one(name: str, options: argparse.Namespace) -> None:
    """Measure a part and keep its rows; each is told as it comes."""
    part = PARTS[name]
    named = {"out": options.out, "rounds": options.rounds or part.rounds}
    named |= {option: getattr(options, option) for option in part.options if option not in named}
    began, rows = time.perf_counter(), []
    found: Iterator[Row] = import_module(f"benchmarks.speed.{name}").measure(**named)
    for row in found:
        rows.append(row)
        print(f"  {row.what}, {row.of}: {told(row)}", flush=True)
    content = {
        "about": part.about,
        "machine": machine(options.device if "device" in part.options else "cpu"),
        "rounds": named["rounds"],
    }
    content |= {"seconds": time.perf_counter() - began, "rows": [asdict(row) for row in rows]}
    file_of(options.out, name, options.device).write_text(json.dumps(content, indent=1))


def file_of(out: Path, name: str, device: str) -> Path:
    """Where a part's figures are kept, those of a GPU beside those of a CPU."""
    return out / f"bench-{name}{'-cuda' if device == 'cuda' and 'device' in PARTS[name].options else ''}.json"


def told(row: Row) -> str:
    """A figure with its spread and what was wanted."""
    said = f"{shown(row, row.figure.median)} {row.unit} [{shown(row, row.figure.least)}, {shown(row, row.figure.most)}]"
    return f"{said}, wanted {row.wanted}: {'met' if row.met else 'MISSED'}" if row.wanted else said


def shown(row: Row, value: float) -> str:
    """A number with as many digits as say something."""
    return f"{value:,.{row.digits}f}"


def markdown(found: dict[str, dict]) -> str:
    """All parts as tables, each with the machine where it is another than that of the part before."""
    lines, last = list[str](), None
    for name, part in found.items():
        if part["machine"] != last:
            last = part["machine"]
            lines += ["; ".join(f"{what} {said}" for what, said in last.items()), ""]
        lines += [f"### {part['about']}", "", f"Part `{name}`: {part['rounds']} rounds, {part['seconds']:.0f} s.", ""]
        lines += ["| | of | median | least to greatest | wanted |", "|---|---|---:|---:|---|"]
        lines += [line(Row(**row | {"figure": Spread(**row["figure"])})) for row in part["rows"]]
        lines.append("")
    return "\n".join(lines)


def line(row: Row) -> str:
    """A row of a table."""
    spread = f"{shown(row, row.figure.least)} to {shown(row, row.figure.most)}"
    verdict = f"{row.wanted}: {'met' if row.met else '**missed**'}" if row.wanted else ""
    return f"| {row.what} | {row.of} | {shown(row, row.figure.median)} {row.unit} | {spread} | {verdict} |"


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        if "--one" not in sys.argv:
            print("interrupted; the parts that were measured are kept", file=sys.stderr)
        sys.exit(130)
