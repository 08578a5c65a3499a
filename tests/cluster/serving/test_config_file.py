"""serve_config.yaml: no key is lost, and what it says of thresholds goes where it restarts nothing."""

import sys
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.cluster.serving.throwaway import application, written
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.serving.config_file import read, with_thresholds
from uacs.errors import BadInput, WrongUse

# --- read


def test_the_file_comes_as_it_stands(folder):
    endpoint = {"name": "Endpoint", "max_queued_requests": 8, "user_config": {"any": {"thing": 1}}}
    endpoint |= {"autoscaling_config": {"min_replicas": 1, "max_replicas": 3}}
    endpoint |= {"ray_actor_options": {"num_cpus": 1, "resources": {"any": 1}, "runtime_env": {"env_vars": {"A": "1"}}}}
    top = {"http_options": {"host": "127.0.0.1", "port": 8000}, "logging_config": {"encoding": "JSON"}}
    top |= {"proxy_location": "HeadOnly", "controller_options": {"runtime_env": {"env_vars": {"A": "1"}}}}
    file = written(folder, application(deployments=[endpoint], logging_config={"log_level": "INFO"}), **top)
    config = read(file)
    assert config == yaml.safe_load(file.read_text())
    assert ServeDeploySchema.model_validate(config)
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"application": []}, "application: unknown; there is proxy_location, http_options"),
        ({"applications": [{"route": "/"}]}, "applications.0.route: unknown; there is name, route_prefix"),
        ({"http_options": {"prot": 1}}, "http_options.prot: unknown; there is host, port"),
        ({"logging_config": {"level": "INFO"}}, "logging_config.level: unknown; there is encoding"),
        ({"applications": [{}, {"logging_config": {"level": 1}}]}, "applications.1.logging_config.level: unknown"),
        ({"applications": [{"runtime_env": {"envvars": {}}}]}, "0.runtime_env.envvars: unknown; there is conda"),
        ({"applications": [{"autoscaling_policy": {"function": "a:b"}}]}, "0.autoscaling_policy.function: unknown"),
        ({1: 2}, "1: unknown"),
    ],
)
def test_a_misspelt_key_is_named_with_those_that_there_are(folder, config, said):
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(WrongUse) as error:
        read(folder / "serve_config.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"max_queued_requets": 3}, "max_queued_requets: unknown; there is name, num_replicas"),
        ({"autoscaling_config": {"max_replica": 3}}, "autoscaling_config.max_replica: unknown; there is min_replicas"),
        ({"autoscaling_config": {"policy": {"kwargs": {}}}}, "autoscaling_config.policy.kwargs: unknown"),
        ({"ray_actor_options": {"num_cpu": 1}}, "ray_actor_options.num_cpu: unknown; there is runtime_env"),
        ({"ray_actor_options": {"runtime_env": {"pipp": []}}}, "ray_actor_options.runtime_env.pipp: unknown"),
        ({"request_router_config": {"class": "x"}}, "request_router_config.class: unknown"),
        ({"backpressure_config": {"status": 429}}, "backpressure_config.status: unknown"),
    ],
)
def test_of_a_deployment_too_though_ray_would_take_it(folder, entry, said):
    file = written(folder, application(), application(name="b", deployments=[{"name": "Endpoint"} | entry]))
    with pytest.raises(WrongUse) as error:
        read(file)
    assert f"serve_config.yaml: applications.1.deployments.0.{said}" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"args": {"version": 1, "pools": {}}}, "0.args.pools: unknown; there is version, pool, broken, thresholds"),
        ({"args": {"version": 1, "pool": {"replica": 2}}}, "0.args.pool.replica: unknown; there is replicas"),
        ({"args": {}}, "applications.0.args.version: Field required"),
        ({"args": {"version": "two"}}, "applications.0.args.version: Input should be a valid integer"),
        ({"logging_config": {"log_level": "LOUD"}}, "applications.0.logging_config.log_level: Value error"),
        ({"deployments": [{"name": "Endpoint", "num_replicas": 0}]}, "0.deployments.0.num_replicas"),
        (
            {"deployments": [{"name": "x", "autoscaling_config": {"max_replicas": 0}}]},
            "autoscaling_config.max_replicas",
        ),
        (
            {"deployments": [{"name": "x", "autoscaling_config": {"policy": {"policy_function": "throwaway:Picky"}}}]},
            "deployments.0.autoscaling_config.policy: cannot be made (TypeError: Picky.__init__() missing",
        ),
        (
            {"deployments": [{"name": "x", "autoscaling_config": {"policy": {"policy_function": "lost:policy"}}}]},
            "serve_config.yaml: cannot be read as Ray does (ModuleNotFoundError: No module named 'lost')",
        ),
        ({"autoscaling_policy": {"policy_function": "throwaway:lost"}}, "0.autoscaling_policy: cannot be made"),
        ({"import_path": "throwaway:lost"}, "applications.0.import_path: throwaway:lost cannot be imported here"),
        ({"import_path": "lost.build"}, "No module named 'lost'); call this where it can be"),
        ({"import_path": "throwaway:nothing"}, "throwaway:nothing builds no application from args"),
    ],
)
def test_what_ray_would_find_on_the_cluster_is_found_here(folder, changes, said):
    with pytest.raises(WrongUse) as error:
        read(written(folder, application(**changes)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_builder_that_takes_any_args_gets_them(folder):
    assert read(written(folder, application(import_path="throwaway:anything", args={"what": "ever"})))


def test_the_policy_of_the_large_model_can_be_named(folder):
    policy = {"policy_function": "uacs.cluster.serving.scaling:look_ahead"}
    assert read(written(folder, application(deployments=[{"name": "large", "autoscaling_config": {"policy": policy}}])))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("applications: [", "not YAML"),
        ("- a\n", "expected keys and values"),
        ("", "expected keys and values"),
        ("http_options: {}\n", "applications: Field required"),
    ],
)
def test_what_is_no_configuration_says_so_in_a_line(folder, content, said):
    (folder / "serve_config.yaml").write_text(content)
    with pytest.raises((BadInput, WrongUse)) as error:
        read(folder / "serve_config.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(folder):
    with pytest.raises(BadInput, match="lost.yaml: cannot be read"):
        read(folder / "lost.yaml")


# --- with_thresholds


def test_thresholds_move_from_args_to_where_they_restart_nothing(folder):
    config = {"applications": [application(args={"version": 1, "thresholds": "thresholds.json"})]}
    moved = with_thresholds(config, folder)
    assert moved["applications"][0]["args"] == {"version": 1}
    (entry,) = moved["applications"][0]["deployments"]
    assert entry["name"] == "Endpoint"
    assert Thresholds.model_validate(entry["user_config"]["thresholds"]).tau_large == 0.25
    assert config["applications"][0]["args"]["thresholds"] == "thresholds.json"


def test_the_small_model_gets_the_thresholds_estimator_unless_it_is_told_another(folder):
    (folder / "thresholds.json").write_text('{"tau_small": 0.5, "tau_large": 0.25, "estimator": "margin"}')
    for small, wanted in (({}, "margin"), ({"estimator": "cbe"}, "cbe")):
        config = {"applications": [application(args={"small": small, "thresholds": "thresholds.json"})]}
        assert with_thresholds(config, folder)["applications"][0]["args"]["small"] == {"estimator": wanted}


def test_what_the_endpoint_has_besides_stays(folder):
    endpoint = {"name": "Endpoint", "max_queued_requests": 3, "user_config": {"other": 1}}
    config = {"applications": [application(args={"thresholds": str(folder / "thresholds.json")})]}
    config["applications"][0]["deployments"] = [{"name": "large"}, endpoint]
    large, entry = with_thresholds(config, Path("elsewhere"))["applications"][0]["deployments"]
    assert large == {"name": "large"}
    assert entry["max_queued_requests"] == 3 and entry["user_config"].keys() == {"other", "thresholds"}


def test_without_thresholds_nothing_changes(folder):
    config = {"applications": [application(), {"import_path": "a:b"}, application(args=None)]}
    assert with_thresholds(config, folder) == config


def test_thresholds_that_are_not_there_or_twice(folder):
    config = {"applications": [application(args={"thresholds": "lost.json"})]}
    with pytest.raises(BadInput, match="lost.json: no thresholds there"):
        with_thresholds(config, folder)
    config = {"applications": [application(args={"thresholds": "thresholds.json"})]}
    config["applications"][0]["deployments"] = [{"name": "Endpoint", "user_config": {"thresholds": {}}}]
    with pytest.raises(WrongUse, match="leave one of them away"):
        with_thresholds(config, folder)


# --- the command


def test_check_looks_at_the_file_alone(folder, uacs):
    file = written(folder, application(args={"version": 1, "thresholds": "thresholds.json"}))
    assert uacs("deploy", file, "--check")[:2] == (0, f"{file}: nothing wrong\n")
    code, _, said = uacs("deploy", written(folder, application(args={"verson": 1})), "--check")
    assert code == 2 and said.startswith("uacs deploy: ") and "args.verson: unknown; there is version" in said
    code, _, said = uacs("deploy", file, "--address", "127.0.0.1:8265", "--check")
    assert code == 2 and "expected the dashboard's, as http://127.0.0.1:8265" in said
