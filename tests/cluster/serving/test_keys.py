"""Who may ask: keys are hashed where they lie, and come and go without a restart."""

import os
import stat

import pytest

from uacs.cluster.serving.keys import Keys, add, read
from uacs.errors import BadInput, Refused


def test_a_key_opens_and_is_written_nowhere(tmp_path):
    file = tmp_path / "keys"
    key = add(file, "team")
    assert key not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = Keys(file)
    assert keys.owner(key) == "team"
    for wrong in ("", key[:-1], key + "x", key.upper(), "\ud800", "x" * 10_000, file.read_text().split()[1]):
        assert keys.owner(wrong) is None


def test_keys_come_and_go_while_it_runs(tmp_path):
    file = tmp_path / "keys"
    first = add(file, "first")
    keys = Keys(file)
    second = add(file, "second")
    os.utime(file, ns=(1, 1))
    assert keys.owner(second) == "second"
    file.write_text(file.read_text().splitlines()[1] + "\n")
    os.utime(file, ns=(2, 2))
    assert keys.owner(first) is None and keys.owner(second) == "second"
    file.write_text("one lin\n" + file.read_text())
    os.utime(file, ns=(3, 3))
    assert keys.owner(second) == "second"
    file.write_text("")
    os.utime(file, ns=(4, 4))
    assert keys.owner(second) is None


def test_a_file_that_is_gone_for_good_opens_to_nobody(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    key = add(file, "team")
    keys = Keys(file)
    file.unlink()
    assert keys.owner(key) == "team"  # it may be about to be written anew
    monkeypatch.setattr("uacs.cluster.serving.keys.MISSING", -1.0)
    assert keys.owner(key) is None


def test_a_key_is_added_to_a_file_whatever_its_last_line_ends_with(tmp_path):
    file = tmp_path / "keys"
    first = add(file, "first")
    file.write_text(file.read_text().rstrip())
    second = add(file, "second")
    assert [Keys(file).owner(key) for key in (first, second)] == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no key"),
        ("team 12345", "line 1: not NAME and SHA-256"),
        ("# ours\nuacs_abc", "line 2"),
        (f"a {'0' * 64}\na {'1' * 64}", "line 2: a second key of 'a'"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, content, said):
    (tmp_path / "keys").write_text(content)
    with pytest.raises(BadInput, match=said):
        read(tmp_path / "keys")
    with pytest.raises(BadInput, match="no keys there"):
        read(tmp_path / "absent")


def test_a_name_is_taken_once(tmp_path):
    add(tmp_path / "keys", "team")
    with pytest.raises(Refused, match="'team' has a key already"):
        add(tmp_path / "keys", "team")
    with pytest.raises(BadInput, match="a name of letters"):
        add(tmp_path / "keys", "two words\n")
