"""An endpoint from Python.

    from uacs.client import Client

    with Client("http://127.0.0.1:8000") as endpoint:
        print(endpoint.predict("I loved it.").prediction)
        print(endpoint.predict("I loved it.", clip="clips/a.mp4", max_stage="small"))

An endpoint that is full, or is building a model anew, says when to come again: the client does, a few times.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np
from pydantic import BaseModel, ValidationError

from uacs import wire
from uacs.errors import BadInput, UacsError, WrongUse, reason, shown
from uacs.records import Sample

Model = TypeVar("Model", bound=BaseModel)
AGAIN = (408, 502, 503)
LONGEST_PAUSE = 30.0


class Unanswered(UacsError):
    """The endpoint said why it has no answer. code is HTTP's, request_id what whoever runs it can look for."""

    def __init__(self, why: str, code: int, request_id: str = ""):
        super().__init__(why)
        self.code, self.request_id = code, request_id


class Client:
    """A connection to an endpoint, to be closed, or used in `with`; threads may share it.

    key is one of `uacs key`; timeout is the seconds that the endpoint may be silent. A request that it had no room for,
    or whose connection broke, is made again up to `retries` times, after the pause that the endpoint asked for.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        self._url, self._retries = url, retries

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._http.close()

    def predict(
        self,
        text: str | None = None,
        clip: str | Path | bytes | None = None,
        *,
        audio: np.ndarray | Sequence | None = None,
        vision: np.ndarray | Sequence | None = None,
        sample_id: str | None = None,
        max_stage: wire.MaxStage = "verify",
        deadline: float | None = None,
    ) -> wire.Answer:
        """The answer to one clip; raises `Unanswered`.

        clip is a file here, which is sent, its bytes, or a URI that the endpoint can open; audio and vision are
        features for the small model, (steps, size). Features and a file cannot go together.
        """
        about = {"sample_id": sample_id, "text": text, "max_stage": max_stage, "deadline": deadline}
        given: dict[str, Any] = {name: value for name, value in about.items() if value is not None}
        if clip is None or (isinstance(clip, str) and "://" in clip):
            features = {"audio": _listed(audio), "vision": _listed(vision), "clip": clip}
            given |= {name: value for name, value in features.items() if value is not None}
            return self._asked(wire.Answer, "/v1/predict", json=given)
        if audio is not None or vision is not None:
            raise WrongUse("features and a file cannot go together; name the clip by a URI, or leave one of them away")
        return self._asked(wire.Answer, "/v1/predict", data=given, files={"clip": ("clip", _bytes(clip))})

    def predict_batch(
        self,
        samples: Iterable[wire.Clip | Sample | dict],
        max_stage: wire.MaxStage = "verify",
        deadline: float | None = None,
    ) -> list[wire.Answer]:
        """An answer a sample, in order; one that is at fault has status `error`. Clips are URIs here."""
        body: dict = {"samples": [_plain(sample) for sample in samples], "max_stage": max_stage}
        body |= {} if deadline is None else {"deadline": deadline}
        return self._asked(wire.BatchAnswer, "/v1/predict/batch", json=body).results

    def info(self) -> wire.Info:
        """What answers there, by which thresholds, within which limits."""
        return self._asked(wire.Info, "/v1/info", method="GET")

    def health(self) -> wire.Health:
        """Which of the models can answer."""
        response = self._sent("GET", "/v1/health", retries=0)
        return self._read(wire.Health, response, response.status_code in (200, 503))

    def _asked(self, kind: type[Model], path: str, method: str = "POST", **content) -> Model:
        response = self._sent(method, path, self._retries, **content)
        return self._read(kind, response, response.status_code == 200)

    def _sent(self, method: str, path: str, retries: int, **content) -> httpx2.Response:
        """The response; one that asks to come again is taken at its word while there are retries."""
        while True:
            try:
                response = self._http.request(method, path, **content)
            except httpx2.TimeoutException as error:
                raise Unanswered(f"{self._url}: no answer in time ({type(error).__name__})", 0) from None
            except httpx2.HTTPError as error:  # nothing is changed by asking, so it may be asked twice
                if not retries:
                    raise Unanswered(f"{self._url}: nobody answers there ({reason(error)}); is it up?", 0) from None
                pause = 1.0
            else:
                if not retries or not _passing(response):
                    return response
                asked = response.headers.get("retry-after", "1")
                pause = min(float(asked), LONGEST_PAUSE) if asked.isdigit() else 1.0
            time.sleep(pause)
            retries -= 1

    def _read(self, kind: type[Model], response: httpx2.Response, well: bool) -> Model:
        try:
            if well:
                return kind.model_validate_json(response.content)
            told = wire.Problem.model_validate_json(response.content)
            raise Unanswered(told.error, response.status_code, told.request_id)
        except ValidationError:
            if _passing(response):
                raise Unanswered("full, or starting; try again later", response.status_code) from None
            said = f"{self._url}: {response.status_code}, '{shown(response.text)}'; is that an endpoint of U-ACS?"
            raise Unanswered(said, response.status_code) from None


def _passing(response: httpx2.Response) -> bool:
    """Whether another try may be answered. HAProxy's own 502, 503 and 504 are 500s in plain text, as Serve has it."""
    proxy = response.status_code == 500 and response.headers.get("content-type") == "text/plain"
    return proxy or response.status_code in AGAIN


def _plain(sample: wire.Clip | Sample | dict) -> dict:
    if isinstance(sample, Sample):
        clip = None if sample.clip is None else str(sample.clip)
        named = {"sample_id": sample.sample_id, "text": sample.text, "clip": clip}
        features = {"audio": _listed(sample.audio), "vision": _listed(sample.vision)}
        return {name: value for name, value in (named | features).items() if value is not None}
    return sample.model_dump(exclude_none=True) if isinstance(sample, wire.Clip) else sample


def _listed(features: np.ndarray | Sequence | None) -> list | None:
    return None if features is None else np.asarray(features, float).tolist()


def _bytes(clip: str | Path | bytes) -> bytes:
    if isinstance(clip, bytes):
        return clip
    try:
        return Path(clip).read_bytes()
    except OSError as error:
        raise BadInput(f"{clip}: cannot be read ({error.strerror}); name a file") from None
