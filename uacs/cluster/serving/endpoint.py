"""HTTP: what comes in is checked, given to the cascade, and goes back as an answer or as a reason why not.

Every request has an id, a deadline and one line in the log; neither transcript nor footage is in it, and neither is
kept.
"""

import asyncio
import logging
import math
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from uacs import wire
from uacs.cascade.estimators import largest
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.runs import refuse_other_models
from uacs.cluster.serving import intake
from uacs.cluster.serving.calls import through
from uacs.cluster.serving.cascade import Cascade
from uacs.cluster.serving.intake import Most, Wanted
from uacs.cluster.serving.keys import Keys
from uacs.cluster.serving.openapi import responses
from uacs.cluster.serving.service import Service, kind
from uacs.cluster.serving.settings import EndpointSettings
from uacs.cluster.serving.states import States, running
from uacs.cluster.serving.trouble import Down, Late, NoKey, Trouble, Unreadable
from uacs.cluster.serving.watch import EVERY
from uacs.cluster.serving.web import PAGE, SAFE, api, id_of, problem, respond
from uacs.cluster.serving.wires import close_grpc
from uacs.errors import BadInput, UacsError, reason

MIB = 2**20
LEARNT = 30.0  # seconds after which a model is asked again how many frames it looks at
Read = Callable[[Request, str, Most, Sequence[str]], Awaitable[Wanted]]

log = logging.getLogger("ray.serve")


class About(BaseModel):
    """What the endpoint's models are: `identity` as of a run, the rest as the UBM was trained."""

    model_config = ConfigDict(extra="forbid")

    identity: dict[str, Any]
    dataset: str
    score_range: tuple[float, float]
    language: str
    features: dict[str, int]
    reads_clips: bool


@serve.ingress(api)
class Endpoint:
    """One replica that speaks HTTP. Thresholds come by `reconfigure`, so that new ones restart nothing."""

    def __init__(
        self,
        settings: EndpointSettings,
        about: About,
        small: DeploymentHandle,
        large: DeploymentHandle,
        verifier: DeploymentHandle | None,
    ):
        close_grpc()
        self.settings, self.about, self.limits = settings, about, settings.limits
        self.keys = Keys(settings.keys) if settings.keys else None
        form, json = (int(mib * MIB) for mib in (settings.limits.body_mib, settings.limits.json_mib))
        self.most = Most(form, min(form, json), settings.limits.samples)
        self.states = States(partial(running, serve.get_replica_context().app_name))
        experts = {name: handle for name, handle in (("large", large), ("verifier", verifier)) if handle}
        asking = {name: through(handle, partial(self.states.seen, name)) for name, handle in experts.items()}
        cascade = Cascade(through(small), asking["large"], asking.get("verifier"), settings.chunk_size, about.dataset)
        identity = about.identity
        self.models = wire.Models(
            ubm=identity["ubm"],
            mllm=identity["mllm"],
            verifier=identity["verifier"]["mllm"] if "verifier" in identity else None,
            readout=identity["readout"],
        )
        self.service = Service(cascade, self.models, settings.lost_stage == "error", settings.shadow)
        self.watch = self.service.watch
        self.thresholds: Thresholds | None = None
        self.refused: str | None = None
        loop = asyncio.get_running_loop()
        self._telling = loop.create_task(self._tell())
        self._learning = loop.create_task(self._learn(large))

    def reconfigure(self, user_config: dict) -> None:
        """Take thresholds on, if they are some, and of these models; raises only if there are none to go on with.

        Serve would kill a replica that raises, and with it an endpoint that works.
        """
        try:
            thresholds = Thresholds.model_validate(user_config["thresholds"])
            refuse_other_models(thresholds, self.about.identity)
        except (KeyError, ValidationError, UacsError) as error:
            if self.thresholds is None:
                raise BadInput(f"user_config: thresholds: {reason(error)}") from error
            said = f"new thresholds were refused ({reason(error)}); those from before hold"
            self.refused = f"{said}, but no replica can begin with what was sent: deploy others"
            log.error("thresholds refused", extra={"why": self.refused})
            return
        self.thresholds, self.refused = thresholds, None
        self.watch.calibrated(thresholds.reference)

    async def check_health(self) -> None:
        """The event loop answers; that is all there is to it."""

    async def traffic_seen(self) -> dict[str, float]:
        """What came to this replica lately, for whoever decides how many replicas of a model there are."""
        return self.service.cascade.traffic.seen()

    @api.post("/v1/predict", response_model=wire.Answer, responses=responses(422, 401, 413, 500, 503, 504))
    async def predict(self, request: Request) -> Response:
        """Score one clip: JSON, or multipart/form-data with the footage as the file `clip`."""
        return await self._handled(request, self._single)

    @api.post("/v1/predict/batch", response_model=wire.BatchAnswer, responses=responses(422, 401, 413, 500, 503, 504))
    async def predict_batch(self, request: Request) -> Response:
        """Score many: one answer a sample, in order; one that is at fault says why and leaves the others alone."""
        return await self._handled(request, self._batch)

    @api.get("/v1/info", response_model=wire.Info, responses=responses(401, 500))
    async def info(self, request: Request) -> Response:
        """What answers here, by which thresholds, and within which limits."""
        return await self._handled(request, self._info)

    @api.get("/v1/health", response_model=wire.Health, responses={503: {"model": wire.Health}})
    async def health(self) -> Response:
        """Whether both models can answer, the small one alone (degraded), or none (503); needs no key."""
        small, large = await self.states.up("small"), await self.states.up("large")
        status = "down" if not small else "ok" if large else "degraded"
        found = wire.Health(status=status, small=small, large=large, note=self.refused or self.states.fault)
        return respond(found, 503 if status == "down" else 200)

    @api.get("/", include_in_schema=False)
    async def page(self) -> Response:
        """A page to try it."""
        return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8", headers=SAFE)

    async def _handled(self, request: Request, work: Callable[[Request, str], Awaitable[BaseModel]]) -> Response:
        started, request_id = time.monotonic(), id_of(request)
        try:
            self._admit(request)
            response = respond(await work(request, request_id), 200)
        except Trouble as trouble:
            self.watch.refused(kind(trouble))
            response = problem(request_id, str(trouble), trouble.code, trouble.retry_after)
        except Exception as error:
            where = traceback.format_tb(error.__traceback__)  # not what it says, which may quote the request
            log.error("request failed", extra={"id": request_id, "error": type(error).__name__, "where": where})
            response = problem(request_id, f"this is our fault ({type(error).__name__}); tell us the request's id", 500)
        seconds = time.monotonic() - started
        self.watch.request(request.url.path, response.status_code, seconds)
        log.info(
            "request",
            extra={"id": request_id, "path": request.url.path, "code": response.status_code, "took": round(seconds, 4)},
        )
        return response

    async def _tell(self) -> None:
        while True:
            self.watch.tell()
            await asyncio.sleep(EVERY)

    async def _learn(self, large: DeploymentHandle) -> None:
        """How many frames the large model looks at; another version's may be another number."""
        while True:
            with suppress(Exception):  # whatever it is, another time it may answer
                self.service.cascade.frames = await large.frames.remote()
            await asyncio.sleep(LEARNT)

    def _admit(self, request: Request) -> None:
        if self.keys is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self.keys.owner(key.strip()) is None:
            raise NoKey("a key is wanted, as `Authorization: Bearer KEY`; ask who runs this endpoint for one")

    def _set(self) -> Thresholds:
        if self.thresholds is None:
            raise Down("no thresholds have come yet; whoever runs this endpoint has to give it some")
        return self.thresholds

    async def _single(self, request: Request, request_id: str) -> wire.Answer:
        (answer,) = await self._answered(intake.single, request, request_id)
        if answer.status == "error":
            raise Unreadable(answer.error or "it has no answer")
        return answer

    async def _batch(self, request: Request, request_id: str) -> wire.BatchAnswer:
        return wire.BatchAnswer(request_id=request_id, results=await self._answered(intake.batch, request, request_id))

    async def _answered(self, read: Read, request: Request, request_id: str) -> list[wire.Answer]:
        started, thresholds = time.monotonic(), self._set()
        try:
            async with asyncio.timeout(self.limits.deadline):
                wanted = await read(request, request_id, self.most, self.settings.clip_roots)
        except TimeoutError:
            raise Late("the request itself took longer to arrive than it may take to be answered") from None
        seconds = min(wanted.budget.deadline or math.inf, self.limits.deadline) - (time.monotonic() - started)
        return await self.service.answer(wanted, request_id, thresholds, seconds)

    async def _info(self, request: Request, request_id: str) -> wire.Info:
        thresholds, limits, about = self._set(), self.limits, self.about
        return wire.Info(
            version=api.version,
            dataset=about.dataset,
            score_range=about.score_range,
            language=about.language,
            features=about.features,
            reads_clips=about.reads_clips,
            max_u_small=largest(about.identity["estimator"], max(map(abs, about.score_range))),
            tau_small=thresholds.tau_small,
            tau_large=thresholds.tau_large,
            learned=thresholds.deferral is not None,
            models=self.models,
            limits=wire.Limits(
                body_mib=limits.body_mib,
                samples=limits.samples,
                clip_seconds=limits.clip_seconds,
                deadline=limits.deadline,
            ),
            keys=self.keys is not None,
        )
