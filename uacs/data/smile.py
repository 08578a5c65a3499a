"""openSMILE's low-level descriptors as audio features: one step of them each 10 ms.

openSMILE's own licence allows research and no product: `pip install 'uacs[opensmile]'` is yours to decide.
"""

from functools import cache
from typing import Any

import numpy as np

from uacs.data.extract import Features
from uacs.errors import BadInput

SETS = {"egemaps": ("eGeMAPSv02", 25), "compare": ("ComParE_2016", 65)}
"""openSMILE's name of a feature set, and how many descriptors it has."""
SHORTEST = 0.1  # seconds; of less openSMILE says nothing, so silence follows


class Smile:
    """One clip's descriptors of the set `name`."""

    def __init__(self, name: str):
        self.smile = _smile(name)

    def see(self, picture: np.ndarray, seconds: float) -> None:
        """Nothing: it listens."""

    def features(self, waveform: np.ndarray | None, sample_rate: int) -> Features:
        """audio (T, 25) for egemaps, (T, 65) for compare."""
        if waveform is None:
            return {"audio": None}
        silence = np.zeros(max(0, round(SHORTEST * sample_rate) - len(waveform)), np.float32)
        found = self.smile.process_signal(np.concatenate([waveform, silence]), sample_rate)
        return {"audio": np.nan_to_num(found.to_numpy(np.float32), posinf=0.0, neginf=0.0)}


@cache
def _smile(name: str) -> Any:
    try:
        import opensmile
    except (ImportError, OSError):  # the second of a library that it lacks
        raise BadInput(f"extractor {name}: openSMILE is not installed; pip install 'uacs[opensmile]'") from None
    which = getattr(opensmile.FeatureSet, SETS[name][0])
    return opensmile.Smile(feature_set=which, feature_level=opensmile.FeatureLevel.LowLevelDescriptors)
