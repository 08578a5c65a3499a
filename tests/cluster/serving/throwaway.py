"""A small application that is deployed and thrown away, and a serve_config.yaml of it."""

import yaml

MODULE = """
import json
import os

from pydantic import BaseModel, ConfigDict
from ray import serve


class Pool(BaseModel):
    model_config = ConfigDict(extra="forbid")
    replicas: int = 1


class Args(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: int
    pool: Pool = Pool()
    broken: str | None = None
    thresholds: str | None = None


class Endpoint:
    def __init__(self, args):
        if args.broken == "start":
            raise ValueError("no weights in /models/ubm")
        self.version = args.version

    def reconfigure(self, user_config):
        self.tau = user_config["thresholds"]["tau_small"]

    def __call__(self, request):
        return {"version": self.version, "tau": self.tau, "pid": os.getpid()}


def build(args: Args):
    if args.broken == "build":
        raise ValueError("no UBM in /models/ubm")
    options = {"max_surge_percent": 100, "max_constructor_retry_count": 1, "ray_actor_options": {"num_cpus": 0.5}}
    return serve.deployment(Endpoint, name="Endpoint", **options).bind(args)


def anything(args: dict):
    return build(Args(**args))


class Picky:
    def __init__(self, share):
        pass

    def __call__(self, context):
        return 1, {}


nothing = 3
"""


def application(**changes):
    return {"name": "uacs", "import_path": "throwaway:build", "args": {"version": 1}} | changes


def written(folder, *applications, **top):
    config = top | {"applications": list(applications) or [application()]}
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    return folder / "serve_config.yaml"
