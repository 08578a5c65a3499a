"""How many actors hold each model, and whether a Ray has room for them.

Logical CPUs are bookkeeping: how many threads a model uses is its own setting. They matter because
Ray waits without a word for CPUs that never come free, so a plan that cannot start is refused first.
"""

from typing import Annotated

import ray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from uacs.errors import Refused


def _range(value: object) -> object:
    """FEWEST-MOST, or one number for both."""
    if isinstance(value, str) and (parts := value.split("-")) and all(part.strip().isdigit() for part in parts):
        value = [int(part) for part in parts]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    sizes = value if isinstance(value, list | tuple) and all(isinstance(size, int) for size in value) else []
    if len(sizes) in (1, 2) and 1 <= sizes[0] <= sizes[-1]:
        return sizes[0], sizes[-1]
    raise ValueError("a number of 1 or more, or FEWEST-MOST as 1-8")


def size_text(size: tuple[int, int]) -> str:
    """FEWEST-MOST, or the one number.

    >>> size_text((1, 8)), size_text((2, 2))
    ('1-8', '2')
    """
    return "-".join(str(n) for n in sorted(set(size)))


PoolSize = Annotated[tuple[int, int], BeforeValidator(_range)]


class Resources(BaseModel):
    """How many actors hold each model, and what of a machine each of them reserves."""

    model_config = ConfigDict(extra="forbid")

    pool: PoolSize = Field((2, 2), description="actors that hold the UBM: a number, or FEWEST-MOST as 1-8")
    pool_gpus: float = Field(0, ge=0, description="GPU share of each of them")
    replicas: PoolSize = Field((1, 1), description="replicas that hold the large model: a number, or FEWEST-MOST")
    replica_gpus: float = Field(0, ge=0, description="GPU share of each replica")
    verifiers: PoolSize = Field((1, 1), description="replicas that hold the verifier, where there is one of its own")
    verifier_gpus: float | None = Field(None, ge=0, description="GPU share of each of these; as replica_gpus")
    parts_in_flight: int = Field(2, ge=1, description="parts whose unsure samples wait for the large model at once")
    listeners: int = Field(1, ge=1, description="actors that hold a speech recogniser, where there is one")
    listener_gpus: float = Field(0, ge=0, description="GPU share of each of them")
    decoders: int = Field(2, ge=1, description="tasks that look at clips at once")
    actor_cpus: float = Field(0.5, gt=0, description="logical CPUs that any of these reserves")
    autoscaling: bool = Field(False, description="the cluster adds nodes: a plan that does not fit yet waits for them")

    def of_verifier(self) -> "Resources":
        """The plan as it is for the large model, for the verifier."""
        return self.model_copy(update={"replicas": self.verifiers, "replica_gpus": self.verifier_share})

    @property
    def verifier_share(self) -> float:
        """GPU share of each of the verifier's replicas."""
        return self.replica_gpus if self.verifier_gpus is None else self.verifier_gpus


def preflight(plan: Resources, nodes: list[dict[str, float]], device: str = "cpu", verifier: bool = False) -> None:
    """Refuse a plan that would hang for want of CPUs or GPUs, saying what to change.

    `nodes` is what each node of Ray has; an actor must find its place on one of them, and one CPU must stay
    free, since Ray Data's own tasks ask for a whole one; those that look at clips share it. Where the cluster grows, no
    plan is too large yet. `device` is the large model's; verifier says that stage 3 has a deployment of its own.
    """
    shares = {"replica_gpus": plan.replica_gpus} | ({"verifier_gpus": plan.verifier_share} if verifier else {})
    if device != "cpu" and (blind := [name for name, share in shares.items() if not share]):
        raise Refused(f"mllm.device is {device} and resources.{blind[0]} is 0: a replica sees no GPU; set it to 1")
    if plan.autoscaling:
        return
    pool, replicas, verifiers = plan.pool[0], plan.replicas[0], plan.verifiers[0] if verifier else 0
    have_cpus, have_gpus = (sum(node.get(what, 0) for node in nodes) for what in ("CPU", "GPU"))
    actors = pool + replicas + verifiers + plan.parts_in_flight
    gpus = pool * plan.pool_gpus + replicas * plan.replica_gpus + verifiers * plan.verifier_share
    cpus = actors * plan.actor_cpus + 1
    mend = "or add nodes (a cluster that does so by itself: resources.autoscaling=true)"
    if cpus > have_cpus:
        raise Refused(
            f"the plan needs {cpus:g} logical CPUs ({actors} actors of {plan.actor_cpus:g}, and 1 for Ray Data), this "
            f"Ray has {have_cpus:g}; lower resources.pool, resources.replicas or resources.actor_cpus, {mend}"
        )
    if gpus > have_gpus:
        shared = f"{pool} x {plan.pool_gpus:g} for the UBM, {replicas} x {plan.replica_gpus:g} for the large model"
        shared += f", {verifiers} x {plan.verifier_share:g} for the verifier" if verifier else ""
        raise Refused(
            f"the plan needs {gpus:g} GPUs ({shared}), this Ray has {have_gpus:g}; lower replicas or shares, {mend}"
        )
    if homeless := _unplaced(plan, nodes, verifiers):
        raise Refused(
            f"{homeless} fits on none of the {len(nodes)} nodes beside the others, though together they have "
            f"{have_cpus:g} logical CPUs and {have_gpus:g} GPUs; lower what each reserves, {mend}"
        )


def capped(plan: Resources, nodes: list[dict[str, float]], verifier: bool = False) -> Resources:
    """The plan with no larger a UBM pool than leaves CPUs for the other actors, the most there may be of them.

    Ray Data lets a pool grow while there is room, and does not know who will need it later.
    """
    if plan.autoscaling:
        return plan
    others = plan.replicas[1] + (plan.verifiers[1] if verifier else 0) + plan.parts_in_flight
    rest = sum(node.get("CPU", 0) for node in nodes) - 1 - others * plan.actor_cpus
    fewest, most = plan.pool
    return plan.model_copy(update={"pool": (fewest, max(fewest, min(most, int(rest / plan.actor_cpus))))})


def _unplaced(plan: Resources, nodes: list[dict[str, float]], verifiers: int) -> str | None:
    """The first actor that finds no node with room, the greediest placed first; None if all do."""
    free = [[node.get("GPU", 0.0), node.get("CPU", 0.0)] for node in nodes]
    wanted = [(plan.replica_gpus, plan.actor_cpus, "a replica of the large model")] * plan.replicas[0]
    wanted += [(plan.verifier_share, plan.actor_cpus, "a replica of the verifier")] * verifiers
    wanted += [(plan.pool_gpus, plan.actor_cpus, "an actor of the UBM's pool")] * plan.pool[0]
    wanted += [(0.0, 1.0, "Ray Data's own task")]
    wanted += [(0.0, plan.actor_cpus, "an actor that waits for the large model")] * plan.parts_in_flight
    for gpus, cpus, what in sorted(wanted, key=lambda actor: actor[:2], reverse=True):
        # where least is left over: a whole GPU stays whole for who needs it
        room = [node for node in free if node[0] >= gpus and node[1] >= cpus]
        if not room:
            return what
        place = min(room, key=lambda node: (node[0] - gpus, node[1] - cpus))
        place[0], place[1] = place[0] - gpus, place[1] - cpus
    return None


def nodes_of_ray() -> list[dict[str, float]]:
    """What each living node of this Ray has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
