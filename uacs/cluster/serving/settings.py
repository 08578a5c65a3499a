"""What an operator may say of an endpoint; serve_config.yaml's `args`, and the options of `uacs serve`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from uacs.cluster.resources import PoolSize
from uacs.cluster.serving.small import SmallSettings
from uacs.mllm import MllmSettings


class Strict(BaseModel):
    """A misspelt key is an error."""

    model_config = ConfigDict(extra="forbid")


class Pool(Strict):
    """How many replicas there are of something, and what each of them reserves."""

    replicas: PoolSize = Field((1, 1), description="a number, or FEWEST-MOST as 1-4: as many as the load wants")
    gpus: float = Field(0, ge=0, description="GPU share of each")
    cpus: float = Field(0.5, gt=0, description="logical CPUs of each")
    queue: int = Field(64, ge=1, description="calls that may wait for a free replica, of each that asks")


class EndpointPool(Pool):
    """Replicas that speak HTTP: little waits, so that much is turned away quickly."""

    queue: int = Field(8, ge=1, description="requests that may wait for a free replica")


class SmallPool(Pool):
    """Replicas of the UBM."""

    queue: int = Field(256, ge=1, description="calls that may wait for a free replica, of each that asks")


class LargePool(Pool):
    """Replicas of the large model, or of the verifier."""

    queue: int = Field(24, ge=1, description="calls that may wait for a free replica, of each that asks")


class Limits(Strict):
    """What a request may bring and cost."""

    body_mib: float = Field(32, gt=0, description="MiB of a form, its clip included")
    json_mib: float = Field(16, gt=0, description="MiB of a request that is JSON")
    samples: int = Field(256, ge=1, description="samples of a batch")
    clip_seconds: float = Field(300, gt=0, description="of footage")
    clip_mib: float = Field(1024, gt=0, description="MiB that a clip may take decoded")
    decoding: float = Field(20, gt=0, description="seconds that decoding a clip may take")
    deadline: float = Field(30, gt=0, description="seconds in which a request is answered, if it names no fewer")
    requests: int = Field(64, ge=1, description="requests under way at once in each replica of the endpoint")


class EndpointSettings(Strict):
    """An endpoint: two models, the thresholds between them, where they live, and what may be asked of them."""

    ubm: str = Field(description="folder of a trained UBM, as the replicas see it")
    mllm: str = Field(description="folder, hub id, or recorded:FILE.parquet, as the replicas see it")
    verifier: str | None = Field(None, description="the same, for stage 3 by replicas of its own")
    thresholds: str | None = Field(
        None, description="thresholds.json; None where the deployment's user_config brings its content"
    )
    small: SmallSettings = Field(SmallSettings(), description="how the UBM is asked")
    settings: MllmSettings = Field(MllmSettings(), description="how the large model is asked, as `mllm` of a run")
    verifier_settings: MllmSettings | None = Field(None, description="the verifier's, where they are not the same")
    endpoint_pool: EndpointPool = Field(EndpointPool(), description="replicas that speak HTTP")
    small_pool: SmallPool = Field(SmallPool(), description="replicas of the UBM")
    large_pool: LargePool = Field(LargePool(), description="replicas of the large model")
    verifier_pool: LargePool = Field(LargePool(), description="replicas of the verifier, where there is one")
    chunk_size: int = Field(32, ge=1, description="unsure samples that go to the large model in one call")
    limits: Limits = Limits()
    lost_stage: Literal["degraded", "error"] = Field(
        "degraded",
        description="where the large model is down, full or late: the answer that there is, marked so, or 503 and 504",
    )
    keys: str | None = Field(None, description="file of `uacs key`; without one anybody may ask")
    extractors: list[str] = Field(
        [], description="face:FILE and pose:FILE, as the UBM's features were made by; see `uacs prepare --extract`"
    )
    speech: str | None = Field(
        None,
        description="a speech recogniser's folder or hub id, beside each UBM, for clips without a transcript",
    )
    clip_roots: list[str] = Field([], description="folders and URIs under which a request may name footage")
    shadow: float = Field(
        0, ge=0, le=1, description="share of accepted clips, at most, that the large model is shown besides"
    )
