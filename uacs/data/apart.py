"""Strangers' clips, decoded in a process that may be killed and may not grow.

One call into FFmpeg may take as long and as much memory as whoever made the file wants, or crash. So the process has an
alarm that ends it wherever it is, and a limit of memory. What it says is read as numbers: nothing is unpickled.
"""

import json
import math
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from io import BufferedIOBase
from typing import IO, Any

import numpy as np

from uacs.data.extract import Found, Wanted, extractor, find
from uacs.data.media import RATE, Limits
from uacs.errors import BadInput, Refused, UacsError, reason, shown
from uacs.records import Footage

START = 60.0  # seconds in which a process has to be there
GRACE = 0.5  # seconds over the clock: a process that is well says itself what took so long
SLACK = 2**28  # bytes that decoding may take besides what it is for: FFmpeg's own, and an extractor's
LONGEST = 2**16  # bytes of what it says besides numbers


class Broken(RuntimeError):
    """Decoding failed, which is no fault of the clip's."""


class Absent(Broken, Refused):
    """There is no process to decode with, or an extractor cannot begin: no clip can be looked at here."""


class Apart:
    """Decodes clips one at a time in a process of its own, which a clip that is too much for it costs its life.

    The next clip gets a new one, in which the extractors of those SPECs are loaded before. It ends with this process,
    at the latest when the clip under way has had its time, or by `close`.
    """

    def __init__(self, limits: Limits, specs: Iterable[str] = ()):
        self.limits, self.specs = limits, list(specs)
        self._process: subprocess.Popen | None = None
        self._ended = False

    def find(self, clip: str, wanted: Wanted, clock: float = math.inf) -> Found:
        """What is wanted of a clip, decoded once, within the limits and so many seconds.

        Raises `BadInput` for one that cannot be decoded, or not within the limits, and `Broken` for what is no clip's
        fault.
        """
        asked = {"clip": clip, "clock": min(max(clock, 0.0), self.limits.clock), "wanted": asdict(wanted)}
        code = None
        for _ in range(2):  # a process may have died before it came to this clip
            try:
                said, found = self._asked(asked)
                break
            except (OSError, EOFError, ValueError, LookupError, TypeError):  # it is gone, or out of its mind
                code = self.close()
                if code == -signal.SIGALRM:
                    late = f"takes over {asked['clock']:g} s to decode; give a shorter or smaller clip"
                    raise BadInput(f"{shown(clip, most=500)}: {late}") from None
            except BaseException:  # whatever it still says is no answer to the next
                self.close()
                raise
        else:
            held = f"{self.limits.bytes / 2**20:g} MiB"
            ended = f"the decoder ended over it ({code}), within {held}; give a whole MP4 or WAV file, or a smaller one"
            raise BadInput(f"{shown(clip, most=500)}: {ended}")
        if said["last"]:
            self.close()
        if said["broken"]:
            raise Broken(said["broken"])
        if said["wrong"]:
            raise BadInput(said["wrong"])
        audio, vision, frames, times, waveform = found
        footage = None if times is None else Footage(frames, times, waveform, RATE)
        return Found({m: {"audio": audio, "vision": vision}[m] for m in wanted.extract}, footage)

    def start(self) -> subprocess.Popen:
        """Have the process there; raises `Absent` if it does not come."""
        if self._ended:
            raise Absent("what decodes clips was ended")
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps([asdict(self.limits), self.specs])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C is not for it: what was taken on is finished
            )
            if self._ended:  # meanwhile, by another thread
                self._process.kill()
            answers = _of(self._process.stdout)
            said = answers.readline(LONGEST) if select.select([answers], [], [], START)[0] else b""
            if said != READY:
                code, why = self.close(), said.decode(errors="replace").strip()
                raise Absent(why or f"the process that decodes clips does not start ({code})")
        return self._process

    def end(self) -> None:
        """End the process for good, whatever it is at: for another thread than the one that waits for it."""
        self._ended, process = True, self._process
        if process:
            process.kill()

    def close(self) -> int | None:
        """End the process, and return how it ended, as `subprocess` has it; the next clip begins another."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode

    def _asked(self, asked: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray | None]]:
        process = self.start()
        _send(process.stdin, asked)
        said = json.loads(_of(process.stdout).readline(LONGEST))
        shapes = zip(said["shapes"], KINDS, strict=True)
        return said, [self._received(_of(process.stdout), shape, kind) for shape, kind in shapes]

    def _received(self, stream: BufferedIOBase, shape: list[int] | None, kind: type) -> np.ndarray | None:
        """Numbers of that shape; raises `EOFError` if they end before, or are more than a clip can have."""
        if shape is None:
            return None
        size = math.prod(shape) * np.dtype(kind).itemsize
        if not 0 <= size <= self.limits.bytes:
            raise EOFError
        values: np.ndarray = np.empty(shape, kind)
        if size and stream.readinto(values.data.cast("B")) < size:
            raise EOFError
        return values


def main() -> None:
    """Decode what is asked for on standard input, a line of JSON each, until it ends."""
    told, specs = json.loads(sys.argv[1])
    limits, answers = Limits(**told), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what FFmpeg remarks is no answer
        os.dup2(nowhere, stream)
    try:
        for spec in specs:
            extractor(spec).begin()
    except UacsError as error:
        answers.write(f"{error}\n".encode())
        return
    most = _bounded(2 * limits.bytes + SLACK)
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, asked["clock"] + GRACE)  # ends it inside of any call
        said, found = _answered(limits, **asked)
        signal.setitimer(signal.ITIMER_REAL, 0)
        said["last"] |= _held() > most - limits.bytes  # a clip has left so much behind that the next may miss it
        said["shapes"] = [None if array is None else array.shape for array in found]
        arrays = zip(found, KINDS, strict=True)
        _send(answers, said, *(np.ascontiguousarray(array, kind) for array, kind in arrays if array is not None))


def _answered(
    limits: Limits, clip: str, clock: float, wanted: dict[str, Any]
) -> tuple[dict[str, Any], list[np.ndarray | None]]:
    """What is said of a clip, and what was wanted of it, in the order of `KINDS`."""
    said: dict[str, Any] = {"wrong": None, "broken": None, "last": False}
    try:
        for spec in wanted["extract"].values():
            _has_begun(spec)
        found = find(clip, Wanted(**wanted), replace(limits, clock=clock))
        film = found.footage
        features = [found.features.get(modality) for modality in ("audio", "vision")]
        return said, [*features, *((film.frames, film.times, film.waveform) if film else (None, None, None))]
    except BadInput as error:
        said["wrong"] = str(error)
    except MemoryError:
        most = f"{limits.bytes / 2**20:g} MiB"
        said |= {"wrong": f"{shown(clip, most=500)}: takes over {most}; give a shorter or smaller clip", "last": True}
    except Broken as error:
        said["broken"] = str(error)
    except Exception as error:
        said["broken"] = f"{type(error).__name__}: {reason(error)}"
    return said, [None] * len(KINDS)


def _has_begun(spec: str) -> None:
    """What an extractor lacks is no clip's fault."""
    try:
        extractor(spec).begin()
    except UacsError as error:
        raise Broken(str(error)) from error


KINDS = (np.float32, np.float32, np.uint8, np.float64, np.float32)
"""Of audio and vision, and a footage's frames, times and waveform."""
READY = b'"ready"\n'


def _send(stream: IO[bytes] | None, said: dict[str, Any], *content: np.ndarray) -> None:
    _of(stream).write(json.dumps(said).encode() + b"\n")
    for numbers in content:
        if numbers.size:
            _of(stream).write(numbers.data.cast("B"))
    _of(stream).flush()


def _of(stream: IO[bytes] | None) -> BufferedIOBase:
    assert isinstance(stream, BufferedIOBase)
    return stream


def _environment() -> dict[str, str]:
    """This process's, without what is secret to Ray; with one thread, since processes share the work."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _held() -> int:
    """Bytes of addresses that this process has; 0 where that is not Linux."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _bounded(more: int) -> int:
    """Let this process take so many bytes more than it has, and return how many that is; on Linux alone."""
    import resource

    most = _held() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
    return most


if __name__ == "__main__":
    main()
