"""What the tests of data share."""

import pytest


@pytest.fixture
def written(tmp_path):
    """Bytes, laid down as a file."""

    def write(content):
        path = tmp_path / "x.pkl"
        path.write_bytes(content)
        return path

    return write
