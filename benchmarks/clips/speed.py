"""Clips a second and core: our decoding beside FFmpeg's alone, our extractors beside their library's bare call.

    python -m benchmarks.clips.speed

All rounds go over the same clips in one process, one thread, one after the other and each round in another order, so
that a slow moment is everybody's. Where a program `ffmpeg` is on the path its own decode is timed too. Prints Markdown.
"""

import argparse
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from benchmarks.clips.footage import shoot
from uacs.data.apart import Apart
from uacs.data.clips import ClipSettings
from uacs.data.extract import BASIC, Wanted, extractor, find
from uacs.data.media import decode
from uacs.errors import BadInput

BOTH = {"audio": BASIC, "vision": BASIC}


def bare(path: str) -> None:
    """FFmpeg's decode by PyAV: every frame of both streams, nothing converted."""
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for packet in container.demux():
            packet.decode()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    size = options.height, options.height * 16 // 9 // 2 * 2
    with tempfile.TemporaryDirectory() as folder:
        clips = [str(shoot(Path(folder) / f"{k}.mp4", k, size, options.seconds)) for k in range(options.clips)]
        footage = {clip: decode(clip) for clip in clips}
        apart = Apart(ClipSettings().limits)
        work: dict[str, Callable[[str], object]] = {
            "FFmpeg's decode, by PyAV": bare,
            "`decode(clip, 8)`": lambda clip: decode(clip, 8),
            "`decode(clip)`, every frame as RGB": decode,
            "`find`: basic features and 8 frames": lambda clip: find(clip, Wanted(BOTH, 8)),
            "the same in a process apart": lambda clip: apart.find(clip, Wanted(BOTH, 8)),
            "basic features of what is decoded": lambda clip: extractor(BASIC).extract(footage[clip]),
        }
        if shutil.which("ffmpeg"):
            command = ["ffmpeg", "-v", "error", "-threads", "1", "-i"]
            work["`ffmpeg -f null`"] = lambda clip: subprocess.run([*command, clip, "-f", "null", "-"], check=True)
        work |= _opensmile(footage)
        for one in work.values():
            one(clips[0])
        taken = {name: list[float]() for name in work}
        for _ in range(options.rounds):
            for name, one in random.Random(len(taken)).sample(sorted(work.items()), len(work)):
                began = time.perf_counter()
                for clip in clips:
                    one(clip)
                taken[name].append((time.perf_counter() - began) / len(clips))
        apart.close()
    print(f"{options.clips} clips of {size[1]} x {size[0]}, {options.seconds:g} s at 25 frames/s with sound\n")
    print("| | ms a clip | clips/s | of FFmpeg's decode |\n|---|---:|---:|---:|")
    base = np.median(taken["FFmpeg's decode, by PyAV"])
    for name, seconds in taken.items():
        middle = float(np.median(seconds))
        print(f"| {name} | {middle * 1000:.1f} | {1 / middle:.1f} | {middle / base:.2f} |")


def _opensmile(footage: dict) -> dict[str, Callable[[str], object]]:
    """Ours and the library's own, where it is installed."""
    try:
        extractor("egemaps")
        import opensmile
    except (BadInput, ImportError):
        return {}
    theirs = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    return {
        "openSMILE's own call, eGeMAPSv02": lambda clip: theirs.process_signal(footage[clip].waveform, 16000),
        "`egemaps` of what is decoded": lambda clip: extractor("egemaps").extract(footage[clip]),
    }


if __name__ == "__main__":
    main()
