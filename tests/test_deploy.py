"""The deploy files, checked offline. What is wrong with one is a list of faults; every check is shown to find one."""

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from uacs.cli import commands
from uacs.cluster.resources import preflight
from uacs.cluster.serving import config_file
from uacs.config import evaluation_settings
from uacs.errors import UacsError

REPOSITORY = Path(__file__).parents[1]
PINS = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split() if "==" in line)
KUBERNETES = "1.35"
TOKEN = "~/.ray/auth_token"  # where `ray get-auth-token --generate` leaves it
ABSENT = object()


def read(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / name).read_text())


CLUSTER = read("cluster.yaml")
KUBERAY = {name: read(f"deploy/kuberay/{name}.yaml") for name in ("raycluster", "rayjob", "rayservice")}
DOCKERFILE = (REPOSITORY / "deploy/Dockerfile").read_text()


def changed(tree: dict, keys: tuple, value: Any) -> dict:
    """A copy with another value at those keys, or without it."""
    tree = place = copy.deepcopy(tree)
    for key in keys[:-1]:
        place = place[key]
    if value is ABSENT:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return tree


def image_faults(image: str) -> Iterator[str]:
    """Drivers and workers exchange pickles: Ray and Python must be the same on all of them."""
    if not re.search(rf"(:|-ray){re.escape(PINS['ray'])}-py311-[cg]pu$", image):
        yield f"{image}: not Ray {PINS['ray']} and Python 3.11, as constraints.txt has them"


def entrypoint_faults(entrypoint: str, nodes: list[dict[str, float]], run_id: str) -> Iterator[str]:
    """A job's command line, against the command that it calls and the cluster at its largest."""
    python, script, *words = shlex.split(entrypoint)
    command = commands.commands.get(Path(script).stem)
    if python != "python" or command is None or not (REPOSITORY / script).is_file():
        yield f"{script}: no such job"
        return
    try:
        given = command.make_context(script, words).params
        plan = evaluation_settings(overrides=given["overrides"]).resources
        preflight(plan.model_copy(update={"autoscaling": False}), nodes)  # by itself it would wait for ever
    except click.ClickException as fault:
        yield fault.format_message()
        return
    except UacsError as fault:
        yield str(fault)
        return
    if not plan.autoscaling:
        yield "resources.autoscaling is not set: a cluster that starts without workers would be refused"
    if Path(given["out"]).name != run_id:
        yield f"--out {given['out']}: the job is called {run_id}"


# --- cluster.yaml


def launcher_faults(config: dict) -> Iterator[str]:
    """What is wrong with a configuration for `ray up`; Ray's own schema first, which knows no key beside its own."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (jsonschema.ValidationError, ValueError) as fault:
        yield getattr(fault, "message", str(fault))
        return
    kinds, docker = config["available_node_types"], config["docker"]
    head = config["head_node_type"]
    if kinds[head]["resources"] != {"CPU": 0}:
        yield f"{head}: models would be put on the head"
    for name in kinds.keys() - {head}:
        if kinds[name].get("min_workers"):
            yield f"{name}: is paid for while nothing runs"
        if kinds[name]["resources"].get("GPU") and kinds[name]["resources"]["CPU"] != 1:
            yield f"{name}: has room for the pool's actors"
    for image in [docker["image"], *(kind["docker"]["worker_image"] for kind in kinds.values() if "docker" in kind)]:
        yield from image_faults(image)
    options = " ".join(docker["run_options"])
    for option in ("--shm-size=", "--ulimit nofile=", "-e RAY_AUTH_MODE=token"):
        if option not in options:
            yield f"docker.run_options: {option} is missing"
    path = re.search(r"-e RAY_AUTH_TOKEN_PATH=(\S+)", options)
    if not path or config["file_mounts"].get(path[1]) != TOKEN:
        yield f"file_mounts: {TOKEN} is not where RAY_AUTH_TOKEN_PATH says"
    if not any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"]):
        yield "head_start_ray_commands: the dashboard listens to others"
    yield from mount_faults(config)


def mount_faults(config: dict) -> Iterator[str]:
    """Files that are to be copied, or named by a command, and are not in the repository."""
    mounts = {remote: local for remote, local in config["file_mounts"].items() if local != TOKEN}
    for local in [*mounts.values(), *config["rsync_filter"]]:
        if not (REPOSITORY / local).exists():
            yield f"{local}: no such file"
    for command in [*config["setup_commands"], *config["available_node_types"]["gpu"]["worker_setup_commands"]]:
        for path in re.findall(r"/home/ray/\S+", command):
            remote = next((remote for remote in mounts if f"{path}/".startswith(f"{remote}/")), None)
            if remote is None or not (REPOSITORY / mounts[remote] / path.removeprefix(remote).lstrip("/")).exists():
                yield f"{path}: no such file"


def test_ray_up_would_take_cluster_yaml():
    assert list(launcher_faults(CLUSTER)) == []


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("idle_timeout_minute",), 10, "'idle_timeout_minute' was unexpected"),
        (("available_node_types", "cpu", "max_worker"), 8, "'max_worker' was unexpected"),
        (("available_node_types", "gpu", "docker", "image"), "x", "'image' was unexpected"),
        (("available_node_types", "cpu", "resources"), ABSENT, "'resources' is a required property"),
        (("head_node_type",), "boss", "head_node_type"),
        (("available_node_types", "head", "resources", "CPU"), 4, "models would be put on the head"),
        (("available_node_types", "cpu", "min_workers"), 1, "is paid for"),
        (("available_node_types", "gpu", "resources", "CPU"), 8, "room for the pool"),
        (("docker", "image"), "rayproject/ray:2.59.0-py311-cpu", "not Ray"),
        (("docker", "image"), "rayproject/ray:latest", "not Ray"),
        (("available_node_types", "gpu", "docker", "worker_image"), "rayproject/ray:2.60.0-py312-gpu", "not Ray"),
        (("docker", "run_options"), [], "RAY_AUTH_MODE=token is missing"),
        (("file_mounts", "/home/ray/secrets/auth_token"), ABSENT, "auth_token is not where"),
        (("file_mounts", "/home/ray/u-acs"), "./source", "./source: no such file"),
        (("setup_commands",), ["pip install -c /home/ray/u-acs/constraint.txt uacs"], "constraint.txt: no such file"),
        (("head_start_ray_commands",), ["ray start --head --dashboard-host=0.0.0.0"], "listens to others"),
    ],
)
def test_a_fault_in_cluster_yaml_is_found(keys, value, said):
    assert said in "\n".join(launcher_faults(changed(CLUSTER, keys, value)))


def test_the_job_that_cluster_yaml_shows_would_run():
    kinds = CLUSTER["available_node_types"].values()
    nodes = [kind["resources"] for kind in kinds for _ in range(kind.get("max_workers", 1))]
    comment = (REPOSITORY / "cluster.yaml").read_text().partition("\n\n")[0]
    shown = re.search(r"--submission-id (\S+) -- (.+?)\n# +ray down", comment, re.DOTALL)
    entrypoint = re.sub(r"\\\n# +", "", shown[2]).replace("python u-acs/", "python ")
    assert list(entrypoint_faults(entrypoint, nodes, shown[1])) == []


# --- deploy/kuberay
#
# No package on PyPI has KubeRay's definitions. These models have of them what our manifests use, and no more; the
# manifests passed the definitions themselves, of KubeRay 1.5.1, 1.6.2 and 1.7.0, with unknown keys refused.


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AuthOptions(Strict):
    mode: Literal["token"]


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: NonNegativeInt
    resources: dict
    securityContext: dict


class HeadGroup(Strict):
    serviceType: Literal["ClusterIP"]  # Kubernetes has others, which would show the dashboard to the world
    rayStartParams: dict[str, str]
    template: dict


class WorkerGroup(Strict):
    groupName: str
    replicas: NonNegativeInt
    minReplicas: NonNegativeInt
    maxReplicas: NonNegativeInt
    rayStartParams: dict[str, str]
    template: dict


class ClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: Literal[True]
    autoscalerOptions: AutoscalerOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class JobSpec(Strict):
    entrypoint: str
    jobId: str
    backoffLimit: NonNegativeInt
    activeDeadlineSeconds: PositiveInt
    shutdownAfterJobFinishes: Literal[True]
    ttlSecondsAfterFinished: NonNegativeInt
    submitterPodTemplate: dict
    rayClusterSpec: ClusterSpec


class ServiceSpec(Strict):
    serveConfigV2: str
    rayClusterConfig: ClusterSpec


class Metadata(Strict):
    name: str


class Manifest(Strict):
    apiVersion: Literal["ray.io/v1"]
    metadata: Metadata


class RayCluster(Manifest):
    kind: Literal["RayCluster"]
    spec: ClusterSpec


class RayJob(Manifest):
    kind: Literal["RayJob"]
    spec: JobSpec


class RayService(Manifest):
    kind: Literal["RayService"]
    spec: ServiceSpec


MODELS = {"raycluster": RayCluster, "rayjob": RayJob, "rayservice": RayService}


def manifest_faults(name: str, manifest: dict) -> Iterator[str]:
    """What is wrong with a manifest: its own keys, every pod that it would make, the cluster's shape, what it runs."""
    try:
        spec = MODELS[name].model_validate(manifest).spec
    except ValidationError as fault:
        first = fault.errors()[0]
        yield f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return
    cluster = {"raycluster": None, "rayjob": "rayClusterSpec", "rayservice": "rayClusterConfig"}[name]
    if cluster and manifest["spec"][cluster] != KUBERAY["raycluster"]["spec"]:
        yield f"{cluster}: differs from raycluster.yaml"
    yield from cluster_faults(getattr(spec, cluster) if cluster else spec)
    if name == "rayjob":
        yield from pod_faults("submitter", spec.submitterPodTemplate)
        yield from entrypoint_faults(spec.entrypoint, at_its_largest(spec.rayClusterSpec), spec.jobId)
    if name == "rayservice":
        yield from serve_faults(spec.serveConfigV2)


def cluster_faults(cluster: ClusterSpec) -> Iterator[str]:
    if cluster.rayVersion != PINS["ray"]:
        yield f"rayVersion: {cluster.rayVersion}, constraints.txt has {PINS['ray']}"
    if cluster.headGroupSpec.rayStartParams.get("num-cpus") != "0":
        yield "head: models would be put on the head"
    sidecar = {"name": "autoscaler", **cluster.autoscalerOptions.model_dump(include={"resources", "securityContext"})}
    sidecar["image"] = cluster.headGroupSpec.template["spec"]["containers"][0]["image"]
    head = copy.deepcopy(cluster.headGroupSpec.template)
    head["spec"]["containers"].append(sidecar)  # KubeRay puts it into the head's pod
    yield from pod_faults("head", head)
    yield from ray_pod_faults("head", cluster.headGroupSpec.template["spec"])
    for group in cluster.workerGroupSpecs:
        yield from pod_faults(group.groupName, group.template)
        yield from ray_pod_faults(group.groupName, group.template["spec"])
        if not group.minReplicas <= group.replicas <= group.maxReplicas:
            yield f"{group.groupName}: minReplicas, replicas and maxReplicas are not in order"
        if group.minReplicas:
            yield f"{group.groupName}: is paid for while nothing runs"
    if any(node["CPU"] != 1 for node in at_its_largest(cluster) if "GPU" in node):
        yield "gpu: has room for the pool's actors"


def pod_faults(where: str, template: dict) -> Iterator[str]:
    """A pod's template against Kubernetes' own schema, and what any of our pods must have."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
    try:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as fault:
        yield f"{where}: {'.'.join(map(str, fault.absolute_path))}: {fault.message}"
        return
    if not pod["spec"].get("securityContext", {}).get("runAsNonRoot"):
        yield f"{where}: may run as root"
    for container in pod["spec"]["containers"]:
        yield from image_faults(container["image"])
        rights = container.get("securityContext", {})
        if rights.get("allowPrivilegeEscalation") is not False or rights.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{where}: {container['name']} keeps rights that it does not need"
        for side in ("requests", "limits"):
            amounts = container.get("resources", {}).get(side, {})
            if not {"cpu", "memory"} <= amounts.keys():
                yield f"{where}: {container['name']} has no {side}"
            for amount in amounts.values():  # any string, says the schema
                if not re.fullmatch(r"\d+(m|Mi|Gi)?", str(amount)):
                    yield f"{where}: {amount} is no quantity"


def ray_pod_faults(where: str, pod: dict) -> Iterator[str]:
    """A node of Ray: its object store in memory, the models read and never written."""
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0].get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    if unknown := {mount["name"] for mount in mounts.values()} - volumes.keys():
        yield f"{where}: no volume {unknown}"
    if volumes.get(mounts.get("/dev/shm", {}).get("name"), {}).get("emptyDir") != {"medium": "Memory"}:
        yield f"{where}: /dev/shm is not in memory"
    if not mounts.get("/models", {}).get("readOnly"):
        yield f"{where}: /models is not read-only"


def at_its_largest(cluster: ClusterSpec) -> list[dict[str, float]]:
    """What each node would offer to Ray: rayStartParams, else the container's limits."""
    nodes = []
    for group in cluster.workerGroupSpecs:
        limits = group.template["spec"]["containers"][0]["resources"]["limits"]
        node = {"CPU": float(group.rayStartParams.get("num-cpus", limits["cpu"]))}
        if "nvidia.com/gpu" in limits:
            node["GPU"] = float(limits["nvidia.com/gpu"])
        nodes += [node] * group.maxReplicas
    return nodes


def serve_faults(text: str) -> Iterator[str]:
    """Serve's configuration, held against Ray's schema and what our builder takes, to the last key."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "serve_config.yaml"
        file.write_text(text)
        try:
            config_file.read(file)
        except UacsError as fault:
            yield str(fault)
    for application in yaml.safe_load(text).get("applications", []):
        if application["import_path"] != "serve_app:build_app":
            yield f"{application['import_path']}: no such application"


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_would_take_the_manifest(name):
    assert list(manifest_faults(name, KUBERAY[name])) == []


def test_all_three_can_stand_in_one_namespace():
    # each makes a service NAME-head-svc, and the cluster and the service a Secret of their name
    assert len({manifest["metadata"]["name"] for manifest in KUBERAY.values()}) == len(KUBERAY)


HEAD = ("spec", "headGroupSpec")
CPU, GPU = (("spec", "workerGroupSpecs", group) for group in (0, 1))
CONTAINER = ("template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("apiVersion",), "ray.io/v1alpha1", "apiVersion"),
        (("spec", "rayVersionn"), "2.60.0", "Extra inputs"),
        (("spec", "authOptions", "mode"), "disabled", "authOptions.mode"),
        (("spec", "rayVersion"), "2.59.0", "constraints.txt has"),
        (("spec", "autoscalerOptions", "version"), "v3", "autoscalerOptions.version"),
        (("spec", "autoscalerOptions", "resources", "limit"), {}, "'limit' was unexpected"),
        (("spec", "autoscalerOptions", "securityContext"), {}, "autoscaler keeps rights"),
        ((*HEAD, "serviceType"), "LoadBalancer", "serviceType"),
        ((*HEAD, "rayStartParams", "num-cpus"), "4", "models would be put on the head"),
        ((*HEAD, "rayStartParams", "num-cpus"), 0, "valid string"),
        ((*HEAD, *CONTAINER, "imag"), "x", "'imag' was unexpected"),
        ((*HEAD, "template", "spec", "securityContext", "runAsNonRoot"), False, "may run as root"),
        ((*HEAD, *CONTAINER, "image"), "rayproject/ray:latest", "not Ray"),
        ((*HEAD, *CONTAINER, "volumeMounts", 0, "readOnly"), False, "not read-only"),
        ((*HEAD, *CONTAINER, "volumeMounts", 0, "name"), "model", "no volume"),
        ((*HEAD, "template", "spec", "volumes", 1, "emptyDir", "medium"), "", "not in memory"),
        ((*CPU, "maxReplica"), 8, "Extra inputs"),
        ((*CPU, "minReplicas"), 9, "not in order"),
        ((*CPU, "template", "spec", "nodeSelectors"), {}, "'nodeSelectors' was unexpected"),
        ((*CPU, *CONTAINER, "resources", "limits", "memory"), "32Gib", "no quantity"),
        ((*CPU, *CONTAINER, "resources", "requests"), ABSENT, "has no requests"),
        ((*CPU, *CONTAINER, "securityContext"), ABSENT, "rights"),
        ((*GPU, "rayStartParams"), {}, "room for the pool"),
        ((*GPU, "template", "spec", "tolerations", 0, "operator"), True, "is not of type"),
    ],
)
def test_a_fault_in_a_manifest_is_found(keys, value, said):
    assert said in "\n".join(manifest_faults("raycluster", changed(KUBERAY["raycluster"], keys, value)))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("jobID",), "nightly", "Extra inputs"),
        (("backoffLimit",), -1, "backoffLimit"),
        (("shutdownAfterJobFinishes",), False, "shutdownAfterJobFinishes"),
        (("jobId",), "weekly", "the job is called weekly"),
        (("submitterPodTemplate", "spec", "containers", 0, "resource"), {}, "'resource' was unexpected"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), 4, "differs from raycluster.yaml"),
    ],
)
def test_a_fault_in_the_job_is_found(keys, value, said):
    assert said in "\n".join(manifest_faults("rayjob", changed(KUBERAY["rayjob"], ("spec", *keys), value)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("jobs/evaluate.py", "jobs/evaluation.py", "no such job"),
        ("--ubm ", "--umb ", "--umb"),
        ("--mllm /models/qwen2.5-omni", "", "Missing option '--mllm'"),
        ("resources.pool=8", "resources.pools=8", "resources.pools"),
        ("resources.pool=8", "resources.pool=many", "resources.pool"),
        ("resources.replicas=4", "resources.replicas=5", "lower replicas"),
        ("resources.autoscaling=true", "resources.autoscaling=false", "would be refused"),
    ],
)
def test_a_fault_in_the_jobs_command_is_found(old, new, said):
    entrypoint = KUBERAY["rayjob"]["spec"]["entrypoint"]
    assert old in entrypoint
    job = changed(KUBERAY["rayjob"], ("spec", "entrypoint"), entrypoint.replace(old, new))
    assert said in "\n".join(manifest_faults("rayjob", job))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("applications:", "application:", "application: unknown"),
        ("serve_app:build_app", "serve_app", "import_path"),
        ("route_prefix: /", "route: /", "applications.0.route: unknown"),
        ("serve_app:build_app", "tests.conftest:free_port", "tests.conftest:free_port"),
        ("mllm: ", "mlm: ", "mlm: unknown"),
        ("replicas: 1-4", "replicas: 4-1", "FEWEST-MOST"),
        ("dtype: bfloat16", "dtype: float8", "settings.dtype"),
        ("gpus: 1", "gpu: 1", "large_pool.gpu: unknown"),
    ],
)
def test_a_fault_in_the_service_is_found(old, new, said):
    config = KUBERAY["rayservice"]["spec"]["serveConfigV2"]
    assert old in config
    service = changed(KUBERAY["rayservice"], ("spec", "serveConfigV2"), config.replace(old, new))
    assert said in "\n".join(manifest_faults("rayservice", service))


def test_a_misspelt_setting_of_a_deployment_is_found_though_ray_takes_it():
    config = yaml.safe_load(KUBERAY["rayservice"]["spec"]["serveConfigV2"])
    config["applications"][0]["deployments"] = [{"name": "large", "max_queued_requets": 3}]
    ServeDeploySchema.model_validate(config)
    (fault,) = serve_faults(yaml.safe_dump(config))
    assert "deployments.0.max_queued_requets: unknown" in fault


def test_uacs_deploy_would_take_serve_config_yaml():
    assert list(serve_faults((REPOSITORY / "deploy" / "serve_config.yaml").read_text())) == []


# --- deploy/Dockerfile


def dockerfile_faults(text: str) -> Iterator[str]:
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    for image in re.findall(r"^FROM (\S+)$", text, re.MULTILINE):
        yield from image_faults(re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], image))
    for words in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = (word for word in words.split() if not word.startswith("--"))
        yield from (f"{source}: no such file" for source in sources if not (REPOSITORY / source).exists())
    for command in re.findall(r"^RUN (pip install .+)$", text, re.MULTILINE):
        if "--constraint constraints.txt" not in command:
            yield f"{command}: takes whatever is newest"
    if not re.fullmatch(r"[1-9]\d*(:\d+)?", re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1]):
        yield "USER: may run as root"


def test_the_image_has_the_pinned_ray_and_copies_what_is_there():
    assert list(dockerfile_faults(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f"ray:{PINS['ray']}", "ray:2.59.0", "not Ray"),
        ("COPY --chown=1000:100 jobs", "COPY --chown=1000:100 job", "job: no such file"),
        ("--constraint constraints.txt", "", "newest"),
        ("USER 1000:100", "USER root", "root"),
    ],
)
def test_a_fault_in_the_dockerfile_is_found(old, new, said):
    assert old in DOCKERFILE
    assert said in "\n".join(dockerfile_faults(DOCKERFILE.replace(old, new)))
