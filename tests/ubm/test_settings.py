"""Table I to the letter, and overrides that say what is wrong with them."""

import pytest

from uacs.errors import BadInput, WrongUse
from uacs.ubm.settings import load_config, training_settings

TABLE_I = {  # learning rate and decay of BERT, audio LSTM, video LSTM, others
    "mosi": [(5e-5, 1e-3), (1e-3, 1e-3), (1e-4, 1e-3), (5e-4, 1e-3)],
    "mosei": [(5e-5, 1e-5), (5e-3, 0), (1e-3, 0), (1e-3, 1e-2)],
    "sims": [(5e-5, 1e-3), (5e-3, 1e-2), (5e-3, 1e-2), (1e-3, 1e-3)],
}


@pytest.mark.parametrize("preset", TABLE_I)
def test_presets_are_table_i(preset):
    s = training_settings(preset)
    rows = [(getattr(s, f"lr_{c}"), getattr(s, f"decay_{c}")) for c in ("text", "audio", "vision", "other")]
    assert rows == TABLE_I[preset]


def test_an_override_goes_over_the_preset():
    settings = training_settings("mosei", ["lr_text=1e-4", "seed=3"])
    assert (settings.lr_text, settings.seed, settings.lr_audio) == (1e-4, 3, 5e-3)


@pytest.mark.parametrize(
    ("preset", "override", "said"),
    [
        ("mos", None, "no preset 'mos'; there is mosi, mosei, sims"),
        ("mosi", "lr=1", "expected key=value with one of lr_text"),
        ("mosi", "seed", "expected key=value"),
        ("mosi", "seed=x", "--set seed=x"),
        ("mosi", "lr_text=-1", "--set lr_text=-1"),
    ],
)
def test_wrong_use_is_named(preset, override, said):
    with pytest.raises(WrongUse) as error:
        training_settings(preset, [override] if override else None)
    assert said in str(error.value)


def test_a_folder_without_a_ubm_is_named(tmp_path):
    with pytest.raises(BadInput, match="no config.json"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match="not a UBM's"):
        load_config(tmp_path)
