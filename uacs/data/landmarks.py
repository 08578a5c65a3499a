"""MediaPipe's face blendshapes or body pose as vision features, ten steps a second, by a model file of the user's.

Each picture is looked at by itself, so that its features do not depend on those before. Where several people are seen,
the first that the model finds counts.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from uacs import fingerprints
from uacs.data.extract import Features
from uacs.errors import BadInput, reason

STEP = 0.1  # seconds between two pictures that are looked at
BLENDSHAPES, JOINTS = 52, 33
SIZES = {"face": 1 + BLENDSHAPES, "pose": 1 + 4 * JOINTS}
"""Numbers a step: 1 where somebody was found, then a blendshape's score in [0, 1] each, or a joint's x and y as shares
of the picture, its depth and its visibility. Where nobody was found all are 0."""


class Landmarks:
    """One clip's features by a model of that kind."""

    def __init__(self, kind: str, file: str):
        self.kind, self.numbers = kind, _numbers(kind, file)
        self.steps: list[np.ndarray] = []
        self.due = -np.inf

    def see(self, picture: np.ndarray, seconds: float) -> None:
        """Look at it, if the last look was a step ago."""
        if seconds < self.due:
            return
        self.due = seconds + STEP - 1e-3  # times are rounded
        found = self.numbers(np.ascontiguousarray(picture))
        self.steps.append(np.zeros(SIZES[self.kind], np.float32) if found is None else found)

    def features(self, waveform: np.ndarray | None, sample_rate: int) -> Features:
        """vision (T, `SIZES`)."""
        return {"vision": np.stack(self.steps) if self.steps else None}


@cache
def fingerprint(file: str) -> str:
    """What tells a model file from another; raises `BadInput` where there is none."""
    try:
        return fingerprints.of_file(Path(file))[:8]
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({reason(error)}); name MediaPipe's model, a .task file") from None


@cache
def _numbers(kind: str, file: str) -> Callable[[np.ndarray], np.ndarray | None]:
    """What a model says of a picture, one model for all clips of this process."""
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError):  # the second of a library that it lacks
        raise BadInput(f"extractor {kind}: MediaPipe is not installed; pip install 'uacs[mediapipe]'") from None
    base = BaseOptions(model_asset_path=file)
    try:
        if kind == "face":
            asked = vision.FaceLandmarkerOptions(base_options=base, output_face_blendshapes=True)
            model: Any = vision.FaceLandmarker.create_from_options(asked)
        else:
            model = vision.PoseLandmarker.create_from_options(vision.PoseLandmarkerOptions(base_options=base))
    except Exception as error:  # of many kinds
        raise BadInput(f"{file}: is no {kind} model of MediaPipe's ({reason(error)}); name another") from None
    picture = partial(mediapipe.Image, mediapipe.ImageFormat.SRGB)
    read = _blendshapes if kind == "face" else _joints
    return lambda pixels: read(model.detect(picture(pixels)))


def _blendshapes(found: Any) -> np.ndarray | None:
    if not found.face_blendshapes:
        return None
    return np.array([1.0, *(shape.score for shape in found.face_blendshapes[0])], np.float32)


def _joints(found: Any) -> np.ndarray | None:
    if not found.pose_landmarks:
        return None
    joints = [(joint.x, joint.y, joint.z, joint.visibility) for joint in found.pose_landmarks[0]]
    return np.concatenate([[1.0], np.ravel(joints)]).astype(np.float32)
