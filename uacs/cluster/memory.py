"""Memory of processes that hold a model: what a pass gives back, the next one takes again."""

import ctypes
import sys

TRIM, MAP, ARENAS = -1, -3, -8  # mallopt's names
KEPT = 2**31 - 1  # bytes that stay with the process
MAPPED = (2**30, 2**25)  # bytes from which the system is asked for a block; older ones refuse the first


def keep_freed() -> bool:
    """Have glibc keep what is freed, and say whether it does; with another C library nothing changes.

    Else it returns large tensors to the system, above all in a server's threads, and the system clears every page of
    the next ones: on CPU up to a third of a pass. A process stays as large as its largest pass. To be called before
    the threads are there that are to work: they then take memory from the same place.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not any(libc.mallopt(MAP, size) for size in MAPPED):
        return False
    libc.mallopt(TRIM, KEPT)
    libc.mallopt(ARENAS, 1)
    return True
