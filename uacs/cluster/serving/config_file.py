"""serve_config.yaml, checked to the last key.

    read(file)                        the file's content; raises for anything that Ray would not heed
    with_thresholds(config, folder)   thresholds as what Serve hands to running replicas

The format is Ray's own (`ServeDeploySchema`), so `serve deploy` and a RayService take the file as well. But Ray lets
most misspelt keys pass. `rollout` sends it.
"""

import copy
import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from uacs.cluster.runs import read_thresholds
from uacs.data.places import is_uri
from uacs.errors import BadInput, UacsError, WrongUse, reason, shown

ENDPOINT = "Endpoint"  # the deployment that takes thresholds on


def read(file: Path) -> dict[str, Any]:
    """The file's content as it stands; raises `BadInput` or `WrongUse` that names the file, the key and the mend.

    import_path must be importable here, from the file's folder or the working directory: what it builds says which
    `args` there are.
    """
    config = _yaml(file)
    _refuse_unknown(file, ServeDeploySchema, config)
    with _importable(file.resolve().parent, Path.cwd()):
        _refuse_values(file, ServeDeploySchema, config)
        for i, application in enumerate(config["applications"]):
            at = f"applications.{i}"
            _refuse_args(file, application, at)
            _refuse_policy(file, application.get("autoscaling_policy"), f"{at}.autoscaling_policy")
            for k, deployment in enumerate(application.get("deployments") or []):
                _refuse_scaling(file, deployment.get("autoscaling_config"), f"{at}.deployments.{k}.autoscaling_config")
    return config


def with_thresholds(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A copy in which `args.thresholds: FILE` is FILE's content, in the user_config of the deployment `Endpoint`.

    Serve builds all replicas anew when `args` change, but hands a user_config alone to those that run. FILE is
    relative to `folder`, or a URI. Raises `BadInput` that names it, and `WrongUse` where there is a content already.
    """
    config = copy.deepcopy(config)
    for application in config["applications"]:
        named = (application.get("args") or {}).get("thresholds")
        if not isinstance(named, str):
            continue
        del application["args"]["thresholds"]
        content = json.loads(read_thresholds(named if is_uri(named) else folder / named).text())
        if content.get("estimator"):  # replicas of the small model are to have the thresholds'
            application["args"].setdefault("small", {}).setdefault("estimator", content["estimator"])
        entry = _entry(application, ENDPOINT)
        if "thresholds" in (entry.get("user_config") or {}):
            raise WrongUse(f"thresholds: in args and in {ENDPOINT}'s user_config; leave one of them away")
        entry["user_config"] = (entry.get("user_config") or {}) | {"thresholds": content}
    return config


def _yaml(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise BadInput(f"{file}: expected keys and values, as Ray's `serve build` writes them")
    return config


def _refuse_unknown(file: Path, kind: Any, value: Any, at: str = "") -> None:
    """Refuse a key that the models within an annotation do not have, at any depth."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_unknown(file, kind, item, f"{at}{i}.")
    models = [*_models(kind)]
    if not isinstance(value, dict) or not models:
        return
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    fields |= {field.alias: field for field in fields.values() if field.alias}
    for key, item in value.items():
        if key not in fields:
            raise WrongUse(f"{file}: {at}{shown(key)}: unknown; there is {', '.join(fields)}")
        _refuse_unknown(file, STRICTER.get(key, fields[key].annotation), item, f"{at}{key}.")
        if key == "runtime_env" and (unknown := (item or {}).keys() - RuntimeEnv.known_fields):
            known = ", ".join(sorted(field for field in RuntimeEnv.known_fields if not field.startswith("_")))
            raise WrongUse(f"{file}: {at}{key}.{shown(min(unknown, key=str))}: unknown; there is {known}")


STRICTER = {"autoscaling_policy": AutoscalingPolicy}  # which Ray's schema has as any dictionary


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this type may be, or a list of; a dictionary has what keys it likes."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not dict:
        for argument in get_args(annotation):
            yield from _models(argument)


def _refuse_values(file: Path, kind: type[BaseModel], value: Any, at: str = "") -> None:
    try:
        kind.model_validate(copy.deepcopy(value))  # some of Ray's validators write into it
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(filter(None, (at, *map(str, first["loc"]))))
        known = f"; there is {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise WrongUse(": ".join(filter(None, (str(file), place, first["msg"] + known)))) from None
    except Exception as error:  # of a policy's module, which Ray imports to see whether it is one
        raise WrongUse(f"{file}: cannot be read as Ray does ({type(error).__name__}: {reason(error)})") from None


def _refuse_args(file: Path, application: dict[str, Any], at: str) -> None:
    """Hold `args` against the model that the builder wants, as Ray will on the cluster."""
    builder, args = _attribute(file, application["import_path"], f"{at}.import_path"), application.get("args") or {}
    if isinstance(builder, Application):
        if args:
            raise WrongUse(f"{file}: {at}.args: {application['import_path']} is built already and takes none")
        return
    parameters = [*inspect.signature(builder).parameters.values()] if inspect.isfunction(builder) else []
    if len(parameters) != 1:
        raise WrongUse(f"{file}: {at}.import_path: {application['import_path']} builds no application from args")
    kind = parameters[0].annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        _refuse_unknown(file, kind, args, f"{at}.args.")
        _refuse_values(file, kind, args, f"{at}.args")


def _refuse_scaling(file: Path, scaling: Any, at: str) -> None:
    """Ray's schema takes any dictionary here, and its controller meets what is wrong with it."""
    if isinstance(scaling, dict):
        _refuse_values(file, AutoscalingConfig, {k: v for k, v in scaling.items() if k != "policy"}, at)
        _refuse_policy(file, scaling.get("policy"), f"{at}.policy")


def _refuse_policy(file: Path, policy: Any, at: str) -> None:
    """A policy that cannot be made stops the controller's care for all applications."""
    if policy is None:
        return
    try:
        made = AutoscalingPolicy(**policy)
        if inspect.isclass(found := made.get_policy()):
            found(**made.policy_kwargs)
    except Exception as error:
        raise WrongUse(f"{file}: {at}: cannot be made ({type(error).__name__}: {reason(error)})") from None


def _attribute(file: Path, path: str, at: str) -> Any:
    """What MODULE:NAME names, here."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except UacsError:
        raise
    except Exception as error:
        raise WrongUse(
            f"{file}: {at}: {path} cannot be imported here ({type(error).__name__}: {reason(error)}); "
            "call this where it can be, or put its folder on PYTHONPATH"
        ) from None


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """As if Python had been started in these folders."""
    before = sys.path[:]
    sys.path[:0] = map(str, folders)
    try:
        yield
    finally:
        sys.path[:] = before


def _entry(application: dict[str, Any], name: str) -> dict[str, Any]:
    """The application's settings of a deployment, made if there are none."""
    application["deployments"] = application.get("deployments") or []
    for entry in application["deployments"]:
        if entry["name"] == name:
            return entry
    application["deployments"].append({"name": name})
    return application["deployments"][-1]
