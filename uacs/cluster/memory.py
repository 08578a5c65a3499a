"""Memory of processes that hold a model: what a pass gives back, the next one takes again."""

import ctypes
import sys

TRIM, MAP = -1, -3  # mallopt's names for the two thresholds
KEPT, MAPPED = 2**31 - 1, 2**30  # bytes that stay with the process, and from which the system is asked for a block


def keep_freed() -> None:
    """Have glibc keep what is freed, as far as it can; with another C library nothing changes.

    Else it returns large tensors to the system, above all in a server's threads, and the system clears every page of
    the next ones: on CPU up to a third of a pass. A process stays as large as its largest pass.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(TRIM, KEPT)
        libc.mallopt(MAP, MAPPED)
