"""The large model on Ray Serve: replicas that answer chunks of escalated samples, stages 2 and 3."""

import os
from contextlib import suppress

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException

from uacs import fingerprints
from uacs.cluster import tally
from uacs.cluster.memory import keep_freed
from uacs.cluster.resources import Resources
from uacs.cluster.serving.wires import close_grpc
from uacs.errors import BadInput, reason
from uacs.mllm import MllmSettings, Towers, absolute, build_each, identity
from uacs.mllm.adapters import chosen, is_adapter
from uacs.mllm.chunk import Chunk, ChunkAnswer, answer_chunk

UP = ("RUNNING", "UNHEALTHY")  # the second while a replica that died is built again
LOOK = 10.0  # seconds that a replica which is up may take to say whether it has its model
SOON = 0.1  # seconds at most between a chunk's tries to find a replica free; Serve's own are up to half a second
ENOUGH = 600.0  # seconds in which a replica that is to go may finish its chunk


class LargeReplica:
    """One copy of the large model. What it does with a chunk is `answer_chunk`, as anywhere else."""

    def __init__(self, spec: str, settings: dict, score_range: tuple[float, float], language: str):
        close_grpc()
        keep_freed()
        self.wanted = (spec, MllmSettings.model_validate(settings), score_range, language)
        self.fault: str | None = None
        self._load()

    def _load(self) -> None:
        # Serve would build a replica that raises again and again; a wrong model folder must be said once
        try:
            self.models, self.fault = build_each(*self.wanted), None
        except BadInput as error:
            self.fault = str(error)
        except Exception as error:
            self.fault = f"{self.wanted[0]}: {type(error).__name__}: {reason(error)}"

    def why_not(self) -> str | None:
        """What keeps this replica from answering, in one line; None if it is ready."""
        return self.fault

    def _there(self) -> None:
        """Raise `BadInput` without a model."""
        if self.fault:
            self._load()  # a shared folder may have come by now
        if self.fault:
            raise BadInput(self.fault)

    def frames(self, dataset: str) -> int | None:
        """How many of a clip the model that answers for that dataset looks at."""
        self._there()
        return chosen(self.models, dataset).frames

    def answer(self, chunk: Chunk) -> ChunkAnswer:
        """Stage 2 for the chunk and stage 3 for those that it selects."""
        self._there()
        try:
            return answer_chunk(chosen(self.models, chunk.dataset), chunk)
        except RuntimeError as error:
            if "CUDA error" in str(error):
                os._exit(1)  # its GPU answers nothing any more; Serve builds another, the chunk is asked again
            raise


def application(
    spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str, plan: Resources
) -> Application:
    """The large model for a dataset's range and language, on `plan.replicas` replicas, or as many as its load wants.

    A replica that reserves a GPU, or a share of one, uses it.
    """
    settings = placed(settings, plan.replica_gpus)
    fewest, most = plan.replicas
    scaling = {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": 1, "upscale_delay_s": 5}
    deployment = serve.deployment(
        LargeReplica,
        name=_name(spec, settings, score_range, language, plan),
        **(dict(num_replicas=fewest) if fewest == most else dict(autoscaling_config=scaling)),
        max_ongoing_requests=1,
        request_router_config=RequestRouterConfig(max_backoff_s=SOON),
        max_queued_requests=-1,  # the pipeline bounds what is in flight
        health_check_timeout_s=600,
        graceful_shutdown_timeout_s=ENOUGH,
        ray_actor_options={"num_cpus": plan.actor_cpus, "num_gpus": plan.replica_gpus},
    )
    return deployment.bind(absolute(spec), settings.model_dump(), score_range, language)


def deploy(
    name: str,
    spec: str,
    settings: MllmSettings,
    score_range: tuple[float, float],
    language: str,
    plan: Resources,
    taken: tuple[str, ...] = (),
) -> str:
    """Have an application that can answer; returns its name. Raises `BadInput` if the model cannot load.

    One that stays on the cluster and serves the same model (`serve_app.py`) is asked as it is, and so is
    `name`, if a driver that was killed left it and it has what `plan` wants. Else `name` is made. Those that are
    `taken` for something else stay out of it.
    """
    wanted = _name(spec, placed(settings, plan.replica_gpus), score_range, language, plan)
    for other, status in serve.status().applications.items():
        same = any(_serves(deployment) == _serves(wanted) for deployment in status.deployments)
        ours = other == name and wanted in status.deployments
        if (
            status.status in UP
            and same
            and (ours or (tally.run_of(other) is None and other not in taken))
            and not _fault(other)
        ):
            return other
    handle = serve.run(application(spec, settings, score_range, language, plan), name=name, route_prefix=None)
    if fault := handle.why_not.remote().result():
        raise BadInput(fault)
    return name


def frames_of(app: str, dataset: str) -> int | None:
    """How many frames of a clip an application's model looks at; asked again where a replica dies meanwhile."""
    for last in (False, False, True):
        try:
            return serve.get_app_handle(app).frames.remote(dataset).result(timeout_s=ENOUGH)
        except (RayError, RayServeException, TimeoutError) as error:
            if last:
                raise BadInput(f"{app}: does not say how many frames it looks at ({reason(error)})") from error
    return None


def reap() -> list[str]:
    """Remove the applications of runs whose drivers are gone; returns their names."""
    runs = {name: tally.run_of(name) for name in serve.status().applications}
    orphans = [name for name, run in runs.items() if run is not None and not tally.alive(run)]
    for name in orphans:
        remove(name)
    return orphans


def remove(app: str) -> None:
    """Take an application down; one whose replicas finish a chunk first goes on its own a little later."""
    with suppress(TimeoutError):
        serve.delete(app)


def _name(spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str, plan: Resources) -> str:
    """A deployment's name, which says what it serves, and on what: Serve tells it without asking a replica."""
    if settings.adapters or is_adapter(spec):  # each brings a range and a language of its own
        score_range, language = (0, 0), ""
    serves = fingerprints.of_settings([identity(spec, settings, language), score_range])
    reserved = plan.model_dump(include={"replicas", "replica_gpus", "actor_cpus"})
    return f"large-{serves}-{fingerprints.of_settings([settings.model_dump(), reserved])}"


def placed(settings: MllmSettings, gpus: float) -> MllmSettings:
    """The settings as a replica takes them: on the GPUs that it reserves, and with paths that hold anywhere."""
    towers = Towers(**{kind: absolute(tower) if tower else None for kind, tower in settings.towers})
    device = "cuda" if gpus and settings.device == "cpu" else settings.device
    adapters = [absolute(folder) for folder in settings.adapters]
    return settings.model_copy(update={"device": device, "towers": towers, "adapters": adapters})


def _serves(deployment: str) -> str:
    return deployment.rpartition("-")[0]


def _fault(app: str) -> str | None:
    """What keeps an application from answering; one that is too busy to say has its model."""
    try:
        return serve.get_app_handle(app).why_not.remote().result(timeout_s=LOOK)
    except (RayError, RayServeException, TimeoutError):
        return None
