"""The large model as an application that stays on a cluster: evaluations there ask it, and load none of their own.

    serve run --name large-model --route-prefix none serve_app:build_app mllm=/models/omni like=mosi
    serve deploy config.yaml         import_path: serve_app:build_app, args: {mllm: /models/omni, like: mosi}

A run asks it if model, read-out, prompts, range and language are the run's own, and leaves it as it is. Its name
is yours, but for `uacs-run-` or `uacs-verifier-` as its beginning. It answers to Ray alone: there is no HTTP here yet.
"""

from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from uacs import datasets
from uacs.cluster.resources import PoolSize, Resources
from uacs.cluster.serving.large import application
from uacs.mllm import MllmSettings, check


class AppArgs(BaseModel):
    """What the application may be told."""

    model_config = ConfigDict(extra="forbid")

    mllm: str = Field(description="folder, hub id, or recorded:FILE.parquet, as the replicas see it")
    like: str = Field(description="the dataset whose range and language hold: mosi, mosei, sims, simsv2")
    settings: MllmSettings = Field(MllmSettings(), description="how it answers, as `mllm` in a run's settings")
    replicas: PoolSize = Field((1, 1), description="a number, or FEWEST-MOST as 1-4")
    replica_gpus: float = Field(0, ge=0, description="GPU share of each replica")
    replica_cpus: float = Field(0.5, gt=0, description="logical CPUs that each replica reserves")


def build_app(args: AppArgs) -> Application:
    """The application; raises `BadInput` or `WrongUse` for a model or dataset that there is not."""
    kind = datasets.kind(args.like)
    check(args.mllm)
    plan = Resources(replicas=args.replicas, replica_gpus=args.replica_gpus, actor_cpus=args.replica_cpus)
    return application(args.mllm, args.settings, kind.score_range, kind.language, plan)
