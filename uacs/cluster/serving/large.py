"""The large model on Ray Serve: replicas that answer chunks of escalated samples, stages 2 and 3."""

from ray import serve
from ray.serve.handle import DeploymentHandle

from uacs.cluster.resources import Resources
from uacs.errors import BadInput
from uacs.mllm import MllmSettings, absolute, load
from uacs.mllm.chunk import Chunk, ChunkAnswer, answer_chunk

DEPLOYMENT = "large"


class LargeReplica:
    """One copy of the large model. What it does with a chunk is `answer_chunk`, as anywhere else."""

    def __init__(self, spec: str, settings: dict, score_range: tuple[float, float], language: str):
        # Serve would build a replica that raises again and again; a wrong model folder must be said once
        self.fault: str | None = None
        try:
            self.model = load(spec, MllmSettings.model_validate(settings), score_range, language)
        except BadInput as error:
            self.fault = str(error)

    def why_not(self) -> str | None:
        """What keeps this replica from answering, in one line; None if it is ready."""
        return self.fault

    def answer(self, chunk: Chunk) -> ChunkAnswer:
        """Stage 2 for the chunk and stage 3 for those that it selects."""
        return answer_chunk(self.model, chunk)


def deploy(
    name: str, spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str, plan: Resources
) -> DeploymentHandle:
    """Start the application `name` and wait until it can answer; raises `BadInput` if the model cannot load.

    A replica that reserves a GPU, or a share of one, uses it.
    """
    deployment = serve.deployment(
        LargeReplica,
        name=DEPLOYMENT,
        num_replicas=plan.replicas,
        max_ongoing_requests=1,
        max_queued_requests=-1,  # the pipeline bounds what is in flight
        health_check_timeout_s=600,
        ray_actor_options={"num_cpus": plan.actor_cpus, "num_gpus": plan.replica_gpus},
    )
    if plan.replica_gpus and settings.device == "cpu":
        settings = settings.model_copy(update={"device": "cuda"})
    app = deployment.bind(absolute(spec), settings.model_dump(), score_range, language)
    handle = serve.run(app, name=name, route_prefix=None)
    if fault := handle.why_not.remote().result():
        raise BadInput(fault)
    return handle
