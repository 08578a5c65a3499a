"""Where models lie: in a folder here, or on the hub and then in its cache."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from uacs.errors import BadInput, reason

SMALL = ["*.json", "*.jinja", "*.txt", "*.model"]


def local(name: str) -> Path:
    """The folder of a path or a hub id, fetched if it is not here yet; raises `BadInput` if there is none."""
    if Path(name).is_dir():
        return Path(name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*SMALL, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*SMALL, "*.bin", "*.pt"]))
        return folder
    except (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError):
        raise BadInput(f"{name}: neither a folder here nor a model that the hub gives; check the name") from None
    except OSError as error:
        raise BadInput(f"{name}: not here, and the hub does not give it ({reason(error)}); download it") from None
