"""Strangers' clips, decoded in a process that may be killed and may not grow.

One call into FFmpeg may take as long and as much memory as whoever made the file wants, or crash. So the clock and the
memory of `Limits` are kept from outside, and what the process says is read as numbers: nothing is unpickled.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO

import numpy as np

from uacs.data.extract import EXTRACTORS, Features
from uacs.data.media import Limits, decode
from uacs.errors import BadInput, shown

GRACE = 0.5  # seconds over the clock: a process that is well says itself what took so long
SLACK = 2**28  # bytes that decoding may take besides what it is for: FFmpeg's own, and an extractor's
Arrays = Sequence[np.ndarray | None]


class Apart:
    """Decodes clips one at a time in a process of its own, which a clip that is too much for it costs its life.

    The next clip gets a new one. It ends with this process, or by `close`.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self._process: subprocess.Popen | None = None

    def features(self, clip: str, extractor: str | None, clock: float = math.inf) -> Features:
        """audio and vision of a clip by a named extractor, decoded within the limits and so many seconds.

        Without an extractor it is None and None: that the clip is one is all that is seen. Raises `BadInput` for one
        that cannot be decoded, or not within the limits.
        """
        clock = min(clock, self.limits.clock)
        process = self._running()
        questions, answers = process.stdin, process.stdout
        assert questions and answers
        late, until = threading.Timer(clock + GRACE, process.kill), time.monotonic() + clock
        late.start()
        try:
            questions.write(_line({"clip": clip, "extractor": extractor, "clock": clock}))
            questions.flush()
            said = json.loads(answers.readline())
            if isinstance(said, str):
                raise BadInput(said)
            audio, vision = _received(answers, said)
            return audio, vision
        except (OSError, EOFError, json.JSONDecodeError):  # it is gone
            raise BadInput(f"{shown(clip, most=500)}: {self._why(process.wait(), clock, until)}") from None
        finally:
            late.cancel()

    def close(self) -> None:
        """End the process; the next clip begins another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(asdict(self.limits))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # FFmpeg's remarks
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # a Ctrl-C is not for it: what was taken on is finished
            )
            assert self._process.stdout
            self._process.stdout.readline()  # its start is on nobody's clock
        return self._process

    def _why(self, code: int, clock: float, until: float) -> str:
        if time.monotonic() > until:
            return f"takes over {clock:g} s to decode; give a shorter or smaller clip"
        held = f"{self.limits.bytes / 2**20:g} MiB"
        return f"the decoder ended over it ({code}), within {held}; give a whole MP4 or WAV file, or a smaller one"


def main() -> None:
    """Decode what is asked for on standard input, a line of JSON each, until it ends."""
    limits = Limits(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _bound(2 * limits.bytes + SLACK)
    answers.write(_line("ready"))
    answers.flush()
    for line in sys.stdin.buffer:
        for part in _answered(limits, **json.loads(line)):
            answers.write(part)
        answers.flush()


def _answered(limits: Limits, clip: str, extractor: str | None, clock: float) -> Iterator[bytes]:
    """Features of a clip as they are sent: a line that says their shapes, and then the numbers; or what is wrong."""
    found: Arrays = (None, None)
    try:
        footage = decode(clip, None if extractor else 1, limits=Limits(**asdict(limits) | {"clock": clock}))
        if extractor:
            found = EXTRACTORS[extractor].extract(footage)
    except BadInput as error:
        yield _line(str(error))
        return
    except MemoryError:
        yield _line(f"{shown(clip, most=500)}: takes over {limits.bytes / 2**20:g} MiB; give a shorter or smaller clip")
        return
    yield _line([None if array is None else array.shape for array in found])
    for array in found:
        if array is not None and array.size:
            yield array.astype(np.float32).tobytes()


def _received(stream: IO[bytes], shapes: list[list[int] | None]) -> list[np.ndarray | None]:
    """What `_answered` sends after its line; raises `EOFError` if it ends before that does."""
    return [None if shape is None else _array(stream, shape) for shape in shapes]


def _array(stream: IO[bytes], shape: list[int]) -> np.ndarray:
    array = np.empty(shape, np.float32)
    content = stream.read(array.nbytes)
    if len(content) < array.nbytes:
        raise EOFError
    array.ravel().view(np.uint8)[:] = np.frombuffer(content, np.uint8)
    return array


def _line(said: object) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _bound(more: int) -> None:
    """Let this process take so many bytes more than it has; where that is not Linux, the clock alone is kept."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + more, held + more))


if __name__ == "__main__":
    main()
