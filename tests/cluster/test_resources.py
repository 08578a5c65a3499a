"""A plan that would hang is refused before it starts."""

import os
import signal

import pytest

from uacs.cluster import resources
from uacs.cluster.resources import Resources, preflight
from uacs.errors import Refused


def test_a_plan_that_fits_passes_with_one_cpu_to_spare():
    plan = Resources(pool=2, replicas=1, parts_in_flight=2, actor_cpus=0.5)
    assert preflight(plan, {"CPU": 3.5}) is None


def test_a_plan_without_a_cpu_for_ray_data_is_refused_with_what_to_change():
    with pytest.raises(Refused) as error:
        preflight(Resources(pool=2, replicas=1, parts_in_flight=2), {"CPU": 3.4})
    assert "needs 3.5 logical CPUs" in str(error.value)
    assert "this Ray has 3.4" in str(error.value) and "lower resources.pool" in str(error.value)


def test_gpus_are_counted_over_both_models():
    plan = Resources(pool=2, pool_gpus=0.25, replicas=3, replica_gpus=1)
    preflight(plan, {"CPU": 64, "GPU": 3.5})
    with pytest.raises(Refused, match="needs 3.5 GPUs"):
        preflight(plan, {"CPU": 64, "GPU": 3})
    with pytest.raises(Refused, match="this Ray has 0"):
        preflight(plan, {"CPU": 64})


def test_a_model_on_a_gpu_that_no_replica_reserves_is_refused():
    with pytest.raises(Refused, match="resources.replica_gpus is 0"):
        preflight(Resources(), {"CPU": 64, "GPU": 8}, "cuda")


def test_a_ctrl_c_within_rays_core_is_heard_after_it():
    steps = []

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")

    with pytest.raises(KeyboardInterrupt), resources._interrupts_wait():
        interrupted()
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
