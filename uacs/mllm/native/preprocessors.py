"""A tower's preprocessor: by its preprocessor_config.json, or, where there is none, as the published towers have it."""

from pathlib import Path
from typing import Any

from uacs.errors import BadInput, reason


def preprocessor(kind: Any, folder: Path | None, **published) -> tuple[Any, bool]:
    """It, and whether it is the folder's own; raises `BadInput` naming folder and mend."""
    if folder is None or not (folder / "preprocessor_config.json").is_file():
        return kind(**published), False
    try:
        return kind.from_pretrained(folder), True
    except Exception as error:  # what transformers raises depends on what is wrong
        raise unfit(folder, error) from None


def unfit(folder: Path | None, why: BaseException | str) -> BadInput:
    """The refusal of a preprocessor_config.json."""
    told = why if isinstance(why, str) else reason(why)
    return BadInput(f"{folder}: preprocessor_config.json does not do ({told}); copy the tower's own")
