"""Settings: YAML first, --set over it, a misspelt key is an error."""

import pytest

from uacs.config import evaluation_settings
from uacs.errors import BadInput, WrongUse


def test_set_goes_over_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("batch_size: 8\nresources:\n  pool: 4\n  replicas: 2\n")
    settings = evaluation_settings(tmp_path / "run.yaml", ("resources.pool=3", "mllm.device=cuda"))
    assert (settings.batch_size, settings.resources.pool, settings.resources.replicas) == (8, (3, 3), (2, 2))
    assert settings.mllm.device == "cuda"


@pytest.mark.parametrize(
    ("text", "overrides", "error", "said"),
    [
        ("batchsize: 8", (), WrongUse, "batchsize: Extra inputs"),
        ("resources: {pool: many}", (), WrongUse, "resources.pool"),
        ("- 1", (), BadInput, "expected keys and values"),
        ("a: [", (), BadInput, "not YAML"),
        ("", ("batch_size.x=1",), WrongUse, "batch_size"),
        ("", ("resources.pool=0",), WrongUse, "resources.pool"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, overrides, error, said):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(error, match=said) as told:
        evaluation_settings(tmp_path / "run.yaml", overrides)
    assert "\n" not in str(told.value)


def test_a_verifier_is_asked_as_the_large_model_unless_it_has_settings_of_its_own():
    alike = evaluation_settings(overrides=("mllm.frames=4",))
    assert alike.of_verifier == alike.mllm
    apart = evaluation_settings(overrides=("mllm.frames=4", "verifier.dtype=bfloat16"))
    assert (apart.of_verifier.dtype, apart.of_verifier.frames, apart.mllm.dtype) == ("bfloat16", None, "float32")
    with pytest.raises(WrongUse, match=r"verifier\.frams: .*there is .*verifier\.frames"):
        evaluation_settings(overrides=("verifier.frams=4",))
