"""What a process frees it has at hand for the next pass, in a server's threads too."""

import ctypes
import subprocess
import sys

import pytest

PASSES = """
import resource, threading
import numpy as np
from uacs.cluster.memory import keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def passes(count):
    for _ in range(count):
        np.ones(10_000_000)  # 80 MB: more than a thread's own place holds

def measured():
    passes(2)
    before = faults()
    passes(5)
    print(faults() - before)

{first}
thread = threading.Thread(target=measured)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator")
def test_what_a_pass_frees_costs_the_next_one_no_fresh_pages():
    found = {}
    for first in ("keep_freed()", "pass"):
        told = subprocess.run([sys.executable, "-c", PASSES.format(first=first)], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        found[first] = int(told.stdout)
    assert found["keep_freed()"] < found["pass"] / 4
