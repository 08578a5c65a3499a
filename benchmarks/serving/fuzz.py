"""Ten thousand requests that are wrong in some way: every one is answered, none by a 500, and memory stays.

    make demo OUT=/tmp/demo
    python -m benchmarks.serving.fuzz /tmp/demo --requests 10000

Valid requests are mutated: bytes flipped, cut, doubled and put in; numbers that are huge, NaN or of another type; long
strings, deep nesting; clips cut short, with bytes flipped, or not clips at all, zip bombs among them; headers that
lie about length and type. 127.0.0.1, eight at a time. The same seed makes the same requests.
"""

import argparse
import asyncio
import gzip
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.endpoint import endpoint, resident, workers
from uacs.data.prepared import PreparedDataset

ODD = [
    None,
    True,
    -1,
    0,
    1e308,
    10**40,
    1e-320,
    "",
    "NaN",
    "1",
    [],
    {},
    [[]],
    [[1], [1, 2]],
    [[1e300]],
    "\0",
    "é" * 5000,
]
RAW = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[" * 3000, b'"\\ud800"', b'"\xff"', b"1" * 6000, b"{", b""]
FIELDS = ("sample_id", "text", "audio", "vision", "clip", "max_stage", "deadline", "other")


def main() -> None:
    """Send, count, and compare memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with endpoint(options.demo, "--set", "limits.body_mib=1", "--set", "limits.deadline=5") as url:
        asyncio.run(sent(url, mutated(options.demo, draw, 500)))  # warms up
        before = resident(workers(url, "ray::ServeReplica"))
        found = asyncio.run(sent(url, mutated(options.demo, draw, options.requests)))
        after = resident(workers(url, "ray::ServeReplica"))
        well = httpx2.get(f"{url}/v1/health", timeout=30).json()["status"]
    print(", ".join(f"{code} x {count}" for code, count in sorted(found.items(), key=str)))
    print(f"replicas held {before:.0f} MiB before and {after:.0f} MiB after; health: {well}")
    if odd := {code for code in found if code not in (200, 400, 401, 404, 405, 413, 422, 503, 504)}:
        raise SystemExit(f"came to {odd}")


def mutated(demo: Path, draw: random.Random, count: int) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Path, headers and body of so many requests."""
    bodies = of_demo(demo)
    clips = [Path(s.clip).read_bytes() for s in PreparedDataset(demo / "data").samples("test") if s.clip][:20]
    bombs = [
        gzip.compress(b"\0" * 10**8),
        zipped(),
        b"\0" * 10**6,
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        b"GIF89a" + b"\xff" * 50,
    ]
    for _ in range(count):
        path = draw.choice(["/v1/predict"] * 6 + ["/v1/predict/batch"] * 3 + ["/v1/nowhere"])
        if draw.random() < 0.3:
            yield path, *form(draw, draw.choice(clips + bombs))
            continue
        body = dict(draw.choice(bodies))
        for _ in range(draw.randrange(3)):
            body[draw.choice(FIELDS)] = draw.choice(ODD)
        whole = {"samples": [body] * draw.randrange(4)} if path.endswith("batch") else body
        content = json.dumps(whole).encode()
        if draw.random() < 0.3:
            at = draw.randrange(len(content))
            content = content[:at] + draw.choice(RAW) + content[at + draw.randrange(20) :]
        content = bent(draw, content) if draw.random() < 0.4 else content
        kind = draw.choice(["application/json"] * 9 + ["text/plain", "multipart/form-data; boundary=x", ""])
        yield path, {"content-type": kind}, content


def form(draw: random.Random, clip: bytes) -> tuple[dict[str, str], bytes]:
    """A form with a clip that may be bent."""
    clip = bent(draw, clip) if draw.random() < 0.7 else clip
    name = draw.choice(["clip"] * 8 + ["text", "", "clip\r\nX: y"])
    head = f'--cut\r\nContent-Disposition: form-data; name="{name}"; filename="a.mp4"\r\n\r\n'.encode()
    text = b'--cut\r\nContent-Disposition: form-data; name="text"\r\n\r\nit was fine\r\n' * draw.randrange(3)
    body = text + head + clip + b"\r\n--cut--\r\n"
    return {"content-type": "multipart/form-data; boundary=cut"}, bent(draw, body) if draw.random() < 0.1 else body


def bent(draw: random.Random, content: bytes) -> bytes:
    """Some bytes flipped, cut out, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 3, 20])):
        if not changed:
            break
        at, size = draw.randrange(len(changed)), draw.choice([1, 4, 100])
        match draw.randrange(4):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case _:
                del changed[at:]
    return bytes(changed)


def zipped() -> bytes:
    """A zip whose one file is 100 MB of nothing."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("clip.mp4", b"\0" * 10**8)
    return file.getvalue()


async def sent(url: str, requests: Iterator[tuple[str, dict[str, str], bytes]]) -> Counter:
    """How many requests came to which code; `lost` where the connection broke."""
    found: Counter = Counter()
    async with httpx2.AsyncClient(base_url=url, timeout=60) as http:

        async def one() -> None:
            for path, headers, body in requests:
                try:
                    found[(await http.post(path, headers=headers, content=body)).status_code] += 1
                except httpx2.TransportError as error:
                    found[f"lost: {type(error).__name__}"] += 1

        await asyncio.gather(*(one() for _ in range(8)))
    return found


if __name__ == "__main__":
    main()
