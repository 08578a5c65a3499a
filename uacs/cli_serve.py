"""The commands that bring an endpoint up and look after it."""

import os
from pathlib import Path

import click

from uacs.cli_options import FOLDER, SHARE, estimator
from uacs.errors import WrongUse

DASHBOARD = "http://127.0.0.1:8265"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(
    epilog="Example: uacs serve --ubm models/ubm --mllm models/omni --thresholds runs/calibration/thresholds.json"
)
@click.option("--ubm", metavar="DIR", help="A trained UBM.")
@click.option("--mllm", metavar="SPEC", help="Folder, hub id, or recorded:FILE.parquet.")
@estimator("that of --thresholds, else the UBM's")
@click.option("--verifier", metavar="SPEC", help="Stage 3 by replicas of its own, of this or another model.")
@click.option("--thresholds", metavar="FILE", help="thresholds.json of `uacs calibrate`, evaluate or tune.")
@click.option("--config", type=FOLDER, help="Settings of the endpoint as YAML; options and --set go over it.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, as large_pool.replicas=1-4.")
@click.option("--keys", metavar="FILE", help="Keys of `uacs key`: nobody else is answered.")
@click.option("--shadow", type=SHARE, help="Share of accepted clips that the large model is shown besides, as 1%.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need --keys.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--ha-proxy", is_flag=True, help="HAProxy for Serve's own proxy: more requests; see docs/serving.md.")
def serve(config: Path | None, overrides: tuple[str, ...], host: str, port: int, ha_proxy: bool, **named) -> None:
    """Answer clips over HTTP until Ctrl-C; a page to try it is at the address itself.

    Runs on a Ray of its own, or on the one that RAY_ADDRESS names. What it has taken it finishes.
    """
    if ha_proxy:
        from uacs.cluster.serving import haproxy

        haproxy.choose()
    from uacs.cluster.serving import local
    from uacs.cluster.serving.settings import EndpointSettings
    from uacs.config import settings_of

    for option in ("ubm", "mllm", "thresholds"):
        if config is None and named[option] is None and not any(one.startswith(f"{option}=") for one in overrides):
            raise WrongUse(f"--{option} is missing; without --config all of --ubm, --mllm and --thresholds are wanted")
    named["small.estimator"] = named.pop("estimator")
    given = tuple(f"{name}={value}" for name, value in named.items() if value is not None)
    settings = settings_of(EndpointSettings, config, overrides + given)
    if settings.thresholds is None:
        raise WrongUse(f"{config}: thresholds is missing; name the thresholds.json of a calibration")
    if host not in LOOPBACK and settings.keys is None:
        raise WrongUse(f"--host {host}: whoever reaches it would be answered; give --keys, or leave it on 127.0.0.1")

    def told(address: str) -> None:
        click.echo(f"{address}: answers; a page to try it, /openapi.json for programs; Ctrl-C ends it")

    click.echo("loading both models", err=True)
    local.run(settings, host, port, told)


@click.command(epilog="Example: uacs key team --file keys.txt")
@click.argument("name")
@click.option("--file", type=FOLDER, required=True, help="Where hashes of keys are; an endpoint's --keys.")
def key(name: str, file: Path) -> None:
    """Make a key for NAME and print it, this once: FILE holds its hash alone.

    To take a key back, remove its line; endpoints that run see it within a request.
    """
    from uacs.cluster.serving.keys import add

    print(add(file, name))


@click.command(epilog="Example: uacs deploy serve_config.yaml --address http://127.0.0.1:8265")
@click.argument("file", type=FOLDER)
@click.option(
    "--address",
    envvar=["RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS"],
    default=DASHBOARD,
    show_default=True,
    help="The cluster's dashboard; RAY_API_SERVER_ADDRESS names it too.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=1800.0,
    show_default=True,
    help="Seconds within which it is to answer.",
)
@click.option("--check", is_flag=True, help="Only check FILE: every key, and the args of what it builds.")
def deploy(file: Path, address: str, timeout: float, check: bool) -> None:
    """Have a cluster serve what FILE says, and wait until that version answers.

    FILE is serve_config.yaml, Ray's own format with no key misspelt; what the cluster served before and FILE does not
    name goes. Where FILE differs in its thresholds alone, no replica is started anew. What cannot run is said in a
    line, together with what answers meanwhile.
    """
    if not address.startswith(("http://", "https://")):
        raise WrongUse(f"--address {address}: expected the dashboard's, as {DASHBOARD}")
    token = _token()
    from uacs.cluster.serving import config_file, rollout

    config = config_file.with_thresholds(config_file.read(file), file.parent)
    if check:
        print(f"{file}: nothing wrong")
        return
    for line in rollout.deploy(config, address, timeout, lambda line: click.echo(line, err=True), token):
        print(line)


def _token() -> str | None:
    """The token of somebody else's cluster, found where Ray looks for it.

    To be called before uacs.cluster is imported, which sets one for a Ray of our own.
    """
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return file.read_text().strip() or None
    except OSError as error:
        if named:
            raise WrongUse(f"RAY_AUTH_TOKEN_PATH {named}: cannot be read ({error.strerror})") from None
        return None
