"""Who has a run, and how far it is: seen from this machine and from another, alive and dead."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from uacs.cluster import status
from uacs.cluster.progress import Counts, Progress
from uacs.cluster.runs import Run
from uacs.cluster.status import Pulse, Status, read, refuse_alive
from uacs.console import duration, stages, status_text
from uacs.errors import Refused

COUNTS = Counts(small=512, due=200, asked=150, looked_twice=15, written=256, errors=2, degraded=1, by_small=200)


@pytest.fixture
def run(tmp_path):
    identity = {"command": "evaluate", "dataset": "mosi", "split": "test"}
    return Run.begin(tmp_path / "run", identity, {})


def says(run, **changes):
    """status.json as a driver on this machine would have written it now."""
    now = Status("running", platform.node(), os.getpid(), time.time(), None, Progress(1000, Counts(), COUNTS, 12.0))
    run.write("status.json", json.dumps(asdict(now) | changes))
    return read(run)


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_driver_on_this_machine_is_alive_while_its_process_is(run):
    assert read(run) is None and refuse_alive(run) is None
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert says(run, pid=other.pid).alive
        with pytest.raises(Refused, match=f"process {other.pid}; wait for it, or stop it first"):
            refuse_alive(run)
        assert not says(run, pid=other.pid, at=time.time() - 60).alive  # the number went to another
    finally:
        other.kill()
        other.wait()
    assert not says(run, pid=dead_process()).alive
    assert refuse_alive(run).state == "running"  # it was killed: nobody could say so
    assert not says(run, state="interrupted").alive


def test_a_driver_on_another_machine_is_alive_while_it_writes(run, monkeypatch):
    behind = time.time() - 3600  # its clock is another
    assert says(run, host="elsewhere", pid=1).alive
    says(run, host="elsewhere", pid=1, at=behind)
    monkeypatch.setattr(status.time, "sleep", lambda seconds: says(run, host="elsewhere", pid=1, at=behind + seconds))
    with pytest.raises(Refused, match="under way on elsewhere, process 1"):
        refuse_alive(run)


def test_a_driver_on_another_machine_that_stays_silent_or_ends_is_gone(run, monkeypatch):
    waits = []
    says(run, host="elsewhere", pid=1)
    monkeypatch.setattr(status.time, "sleep", waits.append)
    assert refuse_alive(run).state == "running"
    assert waits == [2 * status.BEAT]
    ends = dict(host="elsewhere", pid=1, state="finished", at=time.time() + 1)
    monkeypatch.setattr(status.time, "sleep", lambda seconds: says(run, **ends))
    says(run, host="elsewhere", pid=1)
    assert refuse_alive(run).state == "finished"


def test_a_container_that_is_started_again_does_not_refuse_itself(run):
    says(run, pid=os.getpid())  # the same number, the same name: it was us
    assert refuse_alive(run).pid == os.getpid()


def test_a_pulse_leaves_the_last_word_however_it_ends(run):
    def ends(count, error):
        with Pulse(run, 1000, COUNTS, None) as pulse, pulse.counting(count):
            raise error

    seen = []
    with Pulse(run, 1000, Counts(), seen.append) as pulse:
        assert read(run).state == "running" and read(run).progress.counts == Counts()
        with pulse.counting(lambda: COUNTS):
            pass
    assert read(run).state == "finished" and read(run).progress.counts == COUNTS == seen[-1].counts
    with pytest.raises(KeyboardInterrupt):
        ends(lambda: COUNTS, KeyboardInterrupt())
    assert read(run).state == "interrupted"

    def silent():
        raise OSError("no news")

    with pytest.raises(Refused):
        ends(silent, Refused("too many errors"))
    assert read(run).state == "failed" and read(run).progress.counts == COUNTS
    with pytest.raises(Refused), Pulse(run, 1000, COUNTS, None):
        raise Refused("no room")  # before it began: no session
    assert [session["written"] for session in Run.open(run.folder).manifest["sessions"]] == [256, 0, 0]


def test_of_two_drivers_that_begin_at_once_one_withdraws(run, monkeypatch):
    write = Pulse.write

    def late(pulse, state):
        write(pulse, state)
        says(run, host="elsewhere", pid=1)

    monkeypatch.setattr(Pulse, "write", late)
    with pytest.raises(Refused, match="elsewhere, process 1, begins it as well"), Pulse(run, 10, Counts(), None):
        pass


def test_the_stages_say_rate_share_errors_and_time_left():
    small, large, verify = stages(Progress(1000, Counts(small=12), COUNTS, 10.0))
    assert (small.done, small.expected, small.text) == (512, 1000, "512 of 1,000, 2 errors, 50.0/s, 10 s left")
    assert (large.done, large.expected) == (150, 391)  # 200 of 512 so far
    assert large.text == "150 of 391, 39.1% of the samples, 1 degraded, 15.0/s, 16 s left"
    assert verify.text == "15 of 39, 10.0% of these, 1.5/s, 16 s left"
    nothing = stages(Progress(1000, Counts(), Counts()))
    assert [stage.text for stage in nothing] == ["0 of 1,000", "0", "0"]
    assert [duration(seconds) for seconds in (1.4, 119, 121, 7300)] == ["1 s", "119 s", "2 min", "2.0 h"]


def test_the_text_for_the_living_the_dead_and_the_finished(run):
    assert "begun, 0 parts written; the same command again takes it up" in status_text(run, None)
    assert f"running on {platform.node()} as process {os.getpid()}; last sign" in status_text(run, says(run))
    assert "small   512 of 1,000, 2 errors, 42.7/s, 11 s left" in status_text(run, says(run))
    assert "as process 7, job nightly;" in status_text(run, says(run, host="elsewhere", pid=7, job="nightly"))
    said = status_text(run, says(run, pid=dead_process()))
    assert "killed 0 s ago after 12 s" in said and "left" not in said
    run.write("metrics.json", "{}")
    assert status_text(run, says(run, state="finished")).splitlines()[1] == "finished"


def test_the_command(uacs, run, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    says(run, state="interrupted")
    code, said, _ = uacs("status", run.folder)
    assert code == 0 and said.startswith(f"{run.folder}: evaluate mosi, split test, id {run.run_id}\ninterrupted")
    run.folder.rename(run.folder.with_name("calibration"))
    assert uacs("status", run.folder.parent)[1].startswith(f"{run.folder.parent}/calibration: evaluate mosi")
    code, _, said = uacs("status", run.folder.parent / "calibration" / "outcomes")
    assert code == 1 and "no manifest.json there, so no run" in said
