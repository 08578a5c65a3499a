"""U-ACS: a small multimodal sentiment model answers, a large one is asked only where the small one doubts.

The notebook's door is here, loaded when it is used: `uacs.open_dataset`, `uacs.load_ubm`, `uacs.load_mllm`,
`uacs.answer`, `uacs.calibrate`, `uacs.choose`, `uacs.route`, `uacs.replay`, `uacs.score`; docs/api.md shows each.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uacs.api import (
        answer,
        calibrate,
        choose,
        load_mllm,
        load_ubm,
        open_dataset,
        prepare,
        read_run,
        replay,
        route,
        score,
    )
    from uacs.cascade.objectives import Objective
    from uacs.cascade.thresholds import Thresholds
    from uacs.records import Sample

__version__ = "0.1.0"

__all__ = [
    "Objective",
    "Sample",
    "Thresholds",
    "answer",
    "calibrate",
    "choose",
    "load_mllm",
    "load_ubm",
    "open_dataset",
    "prepare",
    "read_run",
    "replay",
    "route",
    "score",
]


def __getattr__(name: str):
    # only `import uacs` is asked of a command's --help; torch comes with the first model
    if name in __all__:
        return getattr(import_module("uacs.api"), name)
    raise AttributeError(f"module 'uacs' has no attribute '{name}'")
