"""Footage that a request may name: under a root, whatever the way there looks like."""

import pytest

from uacs.cluster.serving.roots import allowed
from uacs.cluster.serving.trouble import Unreadable


@pytest.fixture
def root(tmp_path):
    (tmp_path / "clips" / "a").mkdir(parents=True)
    (tmp_path / "clips" / "a" / "b.mp4").write_bytes(b"")
    (tmp_path / "secret.mp4").write_bytes(b"")
    (tmp_path / "clips-of-others").mkdir()
    (tmp_path / "clips" / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "clips" / "in.mp4").symlink_to(tmp_path / "clips" / "a" / "b.mp4")
    return str(tmp_path / "clips")


@pytest.mark.parametrize(
    "clip", ["{root}/a/b.mp4", "a/b.mp4", "{root}/in.mp4", "a/../a/b.mp4", "not-there.mp4", "tcp:127.0.0.1:80"]
)
def test_what_lies_under_a_root_is_opened(root, clip):
    assert allowed(clip.format(root=root), ["s3://bucket/x", root]).startswith(root + "/")


@pytest.mark.parametrize(
    "clip",
    [
        "/etc/passwd",
        "../secret.mp4",
        "a/../../secret.mp4",
        "{root}/../secret.mp4",
        "{root}-of-others/x.mp4",
        "{root}/out.mp4",
        "a\0b",
        "file://{root}/a/b.mp4",
        "http://127.0.0.1/x",
        "s3://bucket/x/../y.mp4",
        "s3://bucket/x/%2e%2e/y.mp4",
        "s3://bucket/xy.mp4",
        "s3://bucket/x/y.mp4?endpoint_override=127.0.0.1",
        "s3://key:secret@bucket/x/y.mp4",
        "S3://bucket/x/y.mp4",
    ],
)
def test_nothing_else_is(root, clip):
    with pytest.raises(Unreadable, match="clip: "):
        allowed(clip.format(root=root), ["s3://bucket/x", root])


def test_a_uri_under_a_root_is_opened_as_it_stands_and_nothing_at_all_without_roots(root):
    assert allowed("s3://bucket/x/y/z.mp4", ["s3://bucket/x"]) == "s3://bucket/x/y/z.mp4"
    with pytest.raises(Unreadable, match="send the file itself"):
        allowed(f"{root}/a/b.mp4", [])
