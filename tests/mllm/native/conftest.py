"""Where the goldens lie, and damaged copies of them."""

import json
import shutil
from pathlib import Path

import pytest

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture
def copy_of(tmp_path):
    """A function that copies a golden's folder, to be damaged; config fields are changed as told, None removes."""

    def copied(name: str, **changes) -> Path:
        folder = shutil.copytree(GOLDENS / name, tmp_path / name)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return folder

    return copied
