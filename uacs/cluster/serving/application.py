"""The endpoint as a Serve application: HTTP, the UBM, the large model and, where there is one, a verifier.

Each is a deployment of its own with replicas of its own. New thresholds go in as the endpoint's `user_config`, which
Serve hands to running replicas; anything else builds new replicas beside the old.
"""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from uacs import mllm
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.runs import refuse_other_models
from uacs.cluster.serving.endpoint import About, Endpoint
from uacs.cluster.serving.expert import Expert
from uacs.cluster.serving.large import placed
from uacs.cluster.serving.scaling import POLICY
from uacs.cluster.serving.settings import EndpointSettings, Pool
from uacs.cluster.serving.small import Small
from uacs.cluster.serving.trouble import RETRY_AFTER
from uacs.data import places
from uacs.data.extract import absolute_spec, specs_of
from uacs.data.media import Limits
from uacs.data.speech import absolute
from uacs.mllm import MllmSettings
from uacs.ubm.estimating import estimator_of, fingerprint
from uacs.ubm.settings import UbmConfig, load_config

GRACE = 15.0  # seconds beyond the deadline that a replica which is to go may take over what it has begun
TOGETHER = 4  # batches that a replica may have waiting: enough to fill the next, too few to grow old


def application(settings: EndpointSettings) -> Application:
    """The endpoint; raises `BadInput` or `Refused` where models and thresholds are not, or not each other's."""
    settings = _estimating(_absolute(settings))
    config, verifier = load_config(Path(settings.ubm)), settings.verifier
    for spec in filter(None, (settings.mllm, verifier)):
        mllm.check(spec)
    about = about_of(settings, config)
    small = _deployment(Small, "small", settings, settings.small_pool, settings.small.batch_size).bind(
        mllm.absolute(settings.ubm),
        _on(settings.small_pool, settings.small),
        _limits(settings),
        settings.extractors,
        settings.speech,
    )
    large = _expert("large", settings.mllm, settings.settings, settings, settings.large_pool, config)
    looking = settings.verifier_settings or settings.settings
    again = _expert("verifier", verifier, looking, settings, settings.verifier_pool, config) if verifier else None
    endpoint = _deployment(Endpoint, "Endpoint", settings, settings.endpoint_pool, settings.limits.requests)
    if settings.thresholds:
        thresholds = Thresholds.load(settings.thresholds)
        refuse_other_models(thresholds, about.identity)
        endpoint = endpoint.options(user_config=user_config(thresholds))
    return endpoint.bind(settings, about, small, large, again)


def user_config(thresholds: Thresholds) -> dict[str, Any]:
    """What brings thresholds to replicas that run."""
    return {"thresholds": thresholds.model_dump(mode="json", by_alias=True, exclude_none=True)}


def about_of(settings: EndpointSettings, config: UbmConfig) -> About:
    """What thresholds have to be of, and what `/v1/info` says."""
    about = config.language, config.score_range, config.dataset
    estimator = estimator_of(Path(settings.ubm), config, settings.small.estimator)
    identity = {
        "ubm": fingerprint(Path(settings.ubm), estimator),
        "estimator": estimator,
        **mllm.identity(settings.mllm, settings.settings, *about),
    }
    if settings.verifier:
        looking = settings.verifier_settings or settings.settings
        identity["verifier"] = mllm.identity(settings.verifier, looking, *about)
    return About(
        identity=identity,
        dataset=config.dataset,
        score_range=config.score_range,
        language=config.language,
        features={name: info.size for name, info in config.features.items()},
        reads_clips=bool(specs_of({m: info.extractor for m, info in config.features.items()}, settings.extractors)),
    )


def _expert(
    name: str, spec: str, asked: MllmSettings, settings: EndpointSettings, pool: Pool, config: UbmConfig
) -> Application:
    there = placed(asked, pool.gpus)
    deployment = _deployment(Expert, name, settings, pool, asked.batch_size)
    about = config.score_range, config.language, config.dataset
    return deployment.bind(mllm.absolute(spec), there, *about, _limits(settings))


def _deployment(what: type, name: str, settings: EndpointSettings, pool: Pool, at_once: int) -> serve.Deployment:
    fewest, most = pool.replicas
    http = what is Endpoint
    scaling = {
        "min_replicas": fewest,
        "max_replicas": most,
        "target_ongoing_requests": max(1, at_once // 2),
        "upscale_delay_s": 5,
        "downscale_delay_s": 60,
        **({"policy": POLICY} if what is Expert else {}),
    }
    return serve.deployment(
        what,
        name=name,
        **(dict(num_replicas=fewest) if fewest == most else dict(autoscaling_config=scaling)),
        max_ongoing_requests=at_once if http else TOGETHER * at_once,
        max_queued_requests=pool.queue,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER),
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.limits.deadline + GRACE,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,
        max_surge_percent=0 if pool.gpus else 100,  # the old answer until the new do; a GPU to spare is rare
        logging_config=LoggingConfig(encoding="JSON", enable_access_log=False),
        ray_actor_options={"num_cpus": pool.cpus, "num_gpus": pool.gpus},
    )


def _on(pool: Pool, settings):
    """A model's settings on the GPU that its replicas reserve."""
    return settings.model_copy(update={"device": "cuda"}) if pool.gpus and settings.device == "cpu" else settings


def _absolute(settings: EndpointSettings) -> EndpointSettings:
    """The same with paths that hold anywhere: replicas have working directories of their own."""
    keys = settings.keys and str(Path(settings.keys).absolute())
    roots = [str(places.absolute(root)) for root in settings.clip_roots]
    extractors = [absolute_spec(spec) for spec in settings.extractors]
    heard = settings.speech and absolute(settings.speech)
    paths = {"keys": keys, "clip_roots": roots, "extractors": extractors, "speech": heard}
    return settings.model_copy(update=paths)


def _estimating(settings: EndpointSettings) -> EndpointSettings:
    """The same with the thresholds' estimator, where none is named."""
    if settings.small.estimator or not settings.thresholds:
        return settings
    made = Thresholds.load(settings.thresholds).estimator
    return settings.model_copy(update={"small": settings.small.model_copy(update={"estimator": made})})


def _limits(settings: EndpointSettings) -> Limits:
    limits = settings.limits
    return Limits(seconds=limits.clip_seconds, bytes=int(limits.clip_mib * 2**20), clock=limits.decoding)
