"""What somebody would write who wants the small model over HTTP and nothing else: FastAPI, torch, a lock.

UBM=/tmp/demo/ubm uvicorn benchmarks.serving.plain:api --port 8001
"""

import asyncio
import os

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from uacs.records import Sample
from uacs.ubm.predictor import SmallPredictor

api = FastAPI()
predictor = SmallPredictor(os.environ["UBM"])
turn = asyncio.Lock()


class Request(BaseModel):
    """What `benchmarks.serving` sends."""

    sample_id: str = "s"
    text: str | None = None
    audio: list[list[float]] | None = None
    vision: list[list[float]] | None = None
    max_stage: str = "small"


@api.get("/v1/health")
async def health() -> dict:
    """It is up."""
    return {}


@api.post("/v1/predict")
async def predict(request: Request) -> dict:
    """The small model's answer."""
    audio, vision = (None if v is None else np.array(v, np.float32) for v in (request.audio, request.vision))
    async with turn:
        sample = Sample(request.sample_id, request.text, audio, vision)
        (output,) = await asyncio.to_thread(predictor.predict, [sample])
    return {"stage": "small", "status": "ok", "prediction": output.y, "u_small": output.u}
