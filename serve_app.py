"""What runs on a cluster under Ray Serve.

    build_app     the endpoint: clips over HTTP, through both models; uacs serve, uacs deploy serve_config.yaml
    build_large   the large model alone, by handles: evaluations on that cluster ask it, and load none of their own

    serve run serve_app:build_app ubm=/models/ubm mllm=/models/omni thresholds=/models/thresholds.json
    serve run --name large-model --route-prefix none serve_app:build_large mllm=/models/omni like=mosi

`app` is the endpoint of the YAML file that UACS_ENDPOINT names, for what takes no arguments, as `serve build`. A run
asks a standing large model if model, read-out, prompts, range and language are the run's own, and leaves it as it is.
Its name is yours, but for `uacs-run-` or `uacs-verifier-` as its beginning.
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from uacs import datasets
from uacs.cluster.resources import PoolSize, Resources
from uacs.cluster.serving.application import application
from uacs.cluster.serving.large import application as large_application
from uacs.cluster.serving.settings import EndpointSettings
from uacs.config import settings_of
from uacs.errors import WrongUse
from uacs.mllm import MllmSettings, check

AppArgs = EndpointSettings
ENDPOINT = "UACS_ENDPOINT"


class LargeArgs(BaseModel):
    """What a standing large model may be told."""

    model_config = ConfigDict(extra="forbid")

    mllm: str = Field(description="folder, hub id, or recorded:FILE.parquet, as the replicas see it")
    like: str = Field(description="the dataset whose range and language hold: mosi, mosei, sims, simsv2")
    settings: MllmSettings = Field(MllmSettings(), description="how it answers, as `mllm` in a run's settings")
    replicas: PoolSize = Field((1, 1), description="a number, or FEWEST-MOST as 1-4")
    replica_gpus: float = Field(0, ge=0, description="GPU share of each replica")
    replica_cpus: float = Field(0.5, gt=0, description="logical CPUs that each replica reserves")


def build_app(args: AppArgs) -> Application:
    """The endpoint; raises `BadInput` or `Refused` where models and thresholds are not there, or not each other's."""
    return application(args)


def build_large(args: LargeArgs) -> Application:
    """The large model alone; raises `BadInput` or `WrongUse` for a model or dataset that there is not."""
    kind = datasets.kind(args.like)
    check(args.mllm)
    plan = Resources(replicas=args.replicas, replica_gpus=args.replica_gpus, actor_cpus=args.replica_cpus)
    return large_application(args.mllm, args.settings, kind.score_range, kind.language, plan)


def __getattr__(name: str) -> Application:
    """`app`, when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    if ENDPOINT not in os.environ:
        raise WrongUse(f"serve_app:app is the endpoint of the YAML file that {ENDPOINT} names; set it")
    return build_app(settings_of(EndpointSettings, Path(os.environ[ENDPOINT])))
