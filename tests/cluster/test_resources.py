"""A plan that would hang is refused before it starts."""

import pytest

from uacs.cluster.resources import Resources, capped, preflight
from uacs.errors import Refused

PLAN = Resources(pool=2, replicas=1, parts_in_flight=2, actor_cpus=0.5)


def test_a_plan_that_fits_passes_with_one_cpu_to_spare():
    assert preflight(PLAN, [{"CPU": 3.5}]) is None


def test_a_plan_without_a_cpu_for_ray_data_is_refused_with_what_to_change():
    with pytest.raises(Refused) as error:
        preflight(PLAN, [{"CPU": 3.4}])
    assert "needs 3.5 logical CPUs" in str(error.value)
    assert "this Ray has 3.4" in str(error.value) and "lower resources.pool" in str(error.value)


def test_gpus_are_counted_over_both_models():
    plan = Resources(pool=2, pool_gpus=0.25, replicas=3, replica_gpus=1)
    preflight(plan, [{"CPU": 64, "GPU": 4}])
    with pytest.raises(Refused, match="needs 3.5 GPUs"):
        preflight(plan, [{"CPU": 64, "GPU": 3}])
    with pytest.raises(Refused, match="this Ray has 0"):
        preflight(plan, [{"CPU": 64}])


def test_what_all_nodes_have_together_may_still_fit_on_none():
    plan = Resources(pool=1, replicas=1, parts_in_flight=1, replica_gpus=2)
    preflight(plan, [{"CPU": 4}, {"CPU": 1, "GPU": 2}])
    with pytest.raises(Refused, match="a replica of the large model fits on none of the 3 nodes .* 2 GPUs"):
        preflight(plan, [{"CPU": 4}, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}])
    with pytest.raises(Refused, match="Ray Data's own task fits on none"):
        preflight(PLAN, [{"CPU": 0.9}] * 8)


def test_shares_of_a_gpu_leave_whole_gpus_whole():
    plan = Resources(pool=4, pool_gpus=0.25, replicas=1, replica_gpus=1, parts_in_flight=1)
    assert preflight(plan, [{"CPU": 3, "GPU": 1}, {"CPU": 3, "GPU": 1}]) is None


def test_a_head_without_cpus_and_a_cluster_that_is_scaled_to_zero():
    with pytest.raises(Refused, match="resources.autoscaling=true"):
        preflight(PLAN, [{"memory": 1e9}])
    preflight(PLAN.model_copy(update={"autoscaling": True}), [{"memory": 1e9}])


def test_a_pool_may_be_a_range_of_which_the_fewest_must_fit():
    assert Resources(pool="1-40").pool == (1, 40) and Resources(pool=[2, 3]).pool == (2, 3)
    preflight(Resources(pool="1-40"), [{"CPU": 4}])
    for wrong in ("3-1", "0", 0, "many", [1, 2, 3], True):
        with pytest.raises(ValueError, match="FEWEST-MOST as 1-8"):
            Resources(pool=wrong)


def test_a_model_on_a_gpu_that_no_replica_reserves_is_refused():
    with pytest.raises(Refused, match="resources.replica_gpus is 0"):
        preflight(Resources(autoscaling=True), [{"CPU": 64, "GPU": 8}], "cuda")


def test_a_verifier_of_its_own_is_counted_where_there_is_one():
    plan = Resources(pool=1, replicas=1, replica_gpus=1, verifiers=2, verifier_gpus=0.5, parts_in_flight=1)
    preflight(plan, [{"CPU": 2.5, "GPU": 1}])
    preflight(plan, [{"CPU": 3.5, "GPU": 2}], verifier=True)
    with pytest.raises(Refused, match="needs 3.5 logical CPUs .5 actors"):
        preflight(plan, [{"CPU": 3, "GPU": 2}], verifier=True)
    with pytest.raises(Refused, match="needs 2 GPUs .*, 2 x 0.5 for the verifier"):
        preflight(plan, [{"CPU": 8, "GPU": 1}], verifier=True)
    with pytest.raises(Refused, match="a replica of the verifier fits on none"):
        preflight(plan, [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 0.4}, {"CPU": 8, "GPU": 0.6}], verifier=True)
    blind = plan.model_copy(update={"verifier_gpus": 0})
    preflight(blind, [{"CPU": 8, "GPU": 1}], "cuda")
    with pytest.raises(Refused, match="resources.verifier_gpus is 0"):
        preflight(blind, [{"CPU": 8, "GPU": 1}], "cuda", verifier=True)
    assert (plan.of_verifier().replicas, plan.of_verifier().replica_gpus) == ((2, 2), 0.5)
    assert Resources(replica_gpus=0.5).of_verifier().replica_gpus == 0.5  # as the large model's, if nobody says
    grown = Resources(pool="2-16", replicas="1-2", verifiers="1-4", parts_in_flight=2)
    assert [capped(grown, [{"CPU": 8}], verifier).pool for verifier in (False, True)] == [(2, 10), (2, 6)]


def test_a_pool_grows_no_further_than_leaves_room_for_the_others():
    plan = Resources(pool="2-16", replicas="1-2", parts_in_flight=2)
    assert capped(plan, [{"CPU": 8}]).pool == (2, 10)  # 8 - 1 for Ray Data - 4 actors of 0.5
    assert capped(plan, [{"CPU": 64}]).pool == (2, 16)
    assert capped(plan, [{"CPU": 1}]).pool == (2, 2)
    assert capped(plan.model_copy(update={"autoscaling": True}), [{"CPU": 1}]).pool == (2, 16)
