"""Our own Ray: what a signal may interrupt, and what a killed process leaves."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from uacs.cluster import session


def test_a_ctrl_c_within_rays_core_is_heard_after_it():
    steps, before = [], signal.getsignal(signal.SIGINT)  # ignored, where a shell started this in the background

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")

    with pytest.raises(KeyboardInterrupt), session._interrupts_wait():
        interrupted()
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_killed_process_left_is_removed_and_what_is_used_stays(monkeypatch):
    base = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: str(base))
    try:
        (base / "uacs-left").mkdir()
        (base / "uacs-left" / session.LOCK).touch()
        (base / "uacs-other").mkdir()  # not ours: no lock
        with session._scratch() as first, session._scratch() as second:
            assert Path(first).is_dir() and Path(second).is_dir()
            assert not (base / "uacs-left").exists()
        assert [path.name for path in base.iterdir()] == ["uacs-other"]
    finally:
        shutil.rmtree(base)


@pytest.mark.parametrize("room", ["evaluation", "pipeline", "clips"])
def test_who_holds_no_model_loads_no_torch(room):
    """Drivers, and workers that read, look at clips or wait: seconds of each one's start."""
    told = f"import sys, uacs.cluster.{room}; sys.exit(' '.join({{'torch', 'transformers'}} & sys.modules.keys()) or 0)"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
