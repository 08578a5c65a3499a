"""An endpoint under half, all and twice of what it can do: who is answered, how fast, and what it costs in memory.

    make demo OUT=/tmp/demo
    python -m benchmarks.serving.load /tmp/demo

Capacity is what 16 clients get who ask again as soon as they are answered. Then requests come by chance (open loop) at
a share of it for `--seconds` each, whatever becomes of those before. Transcripts and features of the demo's test
split, all stages; 127.0.0.1, clients on the same cores. Prints Markdown; fails if anything is a 500 or hangs.
"""

import argparse
import asyncio
from pathlib import Path

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.clients import closed, codes, milliseconds, opened
from benchmarks.serving.endpoint import endpoint, resident, workers

SHARES = (0.5, 1.0, 2.0)
DEADLINE = 5.0


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--ha-proxy", action="store_true", help="uacs serve --ha-proxy")
    options = parser.parse_args()
    bodies = of_demo(options.demo)
    proxy = ["--ha-proxy"] if options.ha_proxy else []
    with endpoint(options.demo, *proxy, "--set", f"limits.deadline={DEADLINE}") as url:
        asyncio.run(closed(url, bodies, 16, 5))  # warms up
        full = asyncio.run(closed(url, bodies, 16, 20))
        capacity = sum(outcome.code == 200 for outcome in full) / 20
        print(f"capacity {capacity:.0f} requests/s, 16 clients: p50 {milliseconds(full, 50)[0]:.0f} ms\n")
        print("| load | requests/s | came to | degraded | p50, ms | p99 | MiB of all replicas |")
        print("|---:|---:|---|---:|---:|---:|---:|")
        print(f"| before | | | | | | {memory(url):.0f} |")
        for share in SHARES:
            found = asyncio.run(opened(url, bodies, share * capacity, options.seconds))
            degraded = sum(outcome.status == "degraded" for outcome in found) / len(found)
            p50, p99 = milliseconds(found, 50, 99)
            cells = [f"{share:g}", f"{share * capacity:.0f}", codes(found), f"{degraded:.1%}", f"{p50:.0f}"]
            print(f"| {' | '.join([*cells, f'{p99:.0f}', f'{memory(url):.0f}'])} |", flush=True)
            if odd := [outcome.code for outcome in found if outcome.code not in (200, 503, 504)]:
                raise SystemExit(f"{len(odd)} requests came to {sorted(set(odd))}")


def memory(url: str) -> float:
    """MiB of the endpoint's replicas."""
    return resident(workers(url, "ray::ServeReplica"))


if __name__ == "__main__":
    main()
