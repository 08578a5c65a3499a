"""What a benchmark ran on: figures without it mean little."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("uacs", "torch", "ray", "transformers", "numpy", "onnxruntime", "openvino")


def machine(device: str) -> dict[str, str]:
    """Processor, cores, memory, system, versions, commit, the day."""
    found = {
        "processor": _processor(),
        "cores": f"{os.cpu_count()} logical, {psutil.cpu_count(logical=False) or '?'} physical",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": _gpu() if device == "cuda" else "",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "day": datetime.now(UTC).date().isoformat(),
    }
    return {name: said for name, said in found.items() if said}


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()


def _commit() -> str:
    """Of the checkout, with a plus where it was changed; nothing outside of one."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
