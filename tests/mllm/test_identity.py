"""A run's identity says what its answers depend on, and nothing that they do not."""

import json

from uacs.mllm import MllmSettings, Towers, identity


def test_settings_that_nobody_chose_leave_the_identity_as_it_was(untrained):
    names = {"mllm", "readout", "prompts", "frames", "max_new_tokens", "dtype"}
    assert set(identity(str(untrained), MllmSettings(batch_size=3, device="cuda", threads=4), "en")) == names


def test_what_changes_answers_changes_the_identity(untrained, tmp_path):
    (tmp_path / "bert").mkdir()
    config = tmp_path / "bert" / "config.json"
    seen = []
    choices = [{}, {"readout": "trie"}, {"hints": "words"}, {"verify_prefill": True}, {"aspect": "pad"}]
    choices += [{"load_in_4bit": True}, {"towers": Towers(gate=str(tmp_path / "bert"))}]
    for chosen in choices:
        config.write_text("{}")
        seen.append(json.dumps(identity(str(untrained), MllmSettings(**chosen), "en"), sort_keys=True))
    config.write_text('{"hidden_size": 1}')
    seen.append(json.dumps(identity(str(untrained), MllmSettings(**chosen), "en"), sort_keys=True))
    assert len(set(seen)) == len(choices) + 1


def test_a_tower_of_the_hub_is_named_as_it_is(untrained):
    found = identity(str(untrained), MllmSettings(towers=Towers(vision="google/siglip")), "en")
    assert found["towers"] == {"vision": "google/siglip"}
