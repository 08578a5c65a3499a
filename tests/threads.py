"""How many threads a matrix product is really given: torch's own count is set for one thread of the process alone."""

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch


def of_products(module: torch.nn.Module, work: Callable[[], object]) -> set[int]:
    """OpenMP's threads as `module` is called in `work`, which is done in a new thread."""
    if sys.platform != "linux":
        pytest.skip("reads Linux's maps")
    maps = Path("/proc/self/maps").read_text().splitlines()
    gomp = {line.split()[-1] for line in maps if "/libgomp" in line and "torch" in line}
    if not gomp:
        pytest.skip("torch brings another OpenMP")
    found, openmp, before = set(), ctypes.CDLL(gomp.pop()), torch.get_num_threads()
    hook = module.register_forward_pre_hook(lambda *_: found.add(openmp.omp_get_max_threads()))
    try:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(work).result()
    finally:
        hook.remove()
        torch.set_num_threads(before)
    return found
