"""MMSA's pickles: what becomes of their arrays, lengths and labels, and what is said of what cannot be."""

import pickle

import numpy as np
import pytest

from tests.mmsa_files import split_content, write_pickle
from uacs.data.mmsa import MmsaPickle
from uacs.data.prepare import PrepareSettings, prepare
from uacs.errors import BadInput
from uacs.records import Sample

STEPS = {"audio": 7, "vision": 5}
WORDS = ["well it was", "no", "a very long film indeed", "fine"]


def some(split="train", count=4, **changes):
    """Samples with sequences of different lengths."""
    draw = np.random.default_rng([len(split), count])
    return [
        Sample(
            sample_id=f"{split}_vid_{i}",
            text=WORDS[i % 4],
            audio=draw.normal(size=(1 + i % 6, 3)).astype(np.float32),
            vision=draw.normal(size=(1 + i % 4, 2)).astype(np.float32),
            label=round(float(draw.integers(-15, 16)) / 5, 1),
            split=split,
        )
        for i in range(count)
    ]


def save(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def read(path, dataset="mosi", score_range=(-3.0, 3.0), **options):
    return MmsaPickle(path, dataset, score_range, **options)


def assert_same(given, found):
    assert [(s.sample_id, s.text, s.label, s.split) for s in found] == [
        (s.sample_id, s.text, s.label, s.split) for s in given
    ]
    for a, b in zip(given, found, strict=True):
        assert np.array_equal(a.audio, b.audio) and np.array_equal(a.vision, b.vision)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_samples_come_back_without_their_padding_whatever_the_protocol(tmp_path, protocol):
    splits = {name: some(name, count) for name, count in (("train", 300), ("valid", 3), ("test", 5))}
    source = read(write_pickle(tmp_path / "unaligned_50.pkl", splits, STEPS, protocol))
    assert source.count == 308
    assert_same([s for samples in splits.values() for s in samples], list(source))
    assert {m: info.size for m, info in source.features.items()} == {"audio": 3, "vision": 2}
    assert source.features["audio"].extractor == "mmsa-mosi-unaligned"


def test_aligned_sequences_are_as_long_as_their_sentence(tmp_path):
    samples = [
        Sample(s.sample_id, s.text, np.ones((50, 3), np.float32), np.ones((50, 2), np.float32), None, s.label, s.split)
        for s in some()
    ]
    source = read(write_pickle(tmp_path / "a.pkl", {"train": samples}, {"audio": 50, "vision": 50}, aligned=True))
    assert [len(s.audio) for s in source] == [len(words.split()) + 2 for words in WORDS]
    assert source.features["vision"].extractor == "mmsa-mosi-aligned"


def test_minus_infinity_is_zero_and_what_else_is_no_number_costs_the_modality_alone(tmp_path):
    content = {"train": split_content(some(), STEPS)}
    content["train"]["audio"][1, 0, 0] = -np.inf
    content["train"]["audio"][2, 0, 0] = np.nan
    content["train"]["vision_lengths"][3] = 0
    source = read(save(tmp_path / "x.pkl", content))
    samples = list(source)
    assert samples[1].audio[0, 0] == 0
    assert [s.audio is None for s in samples] == [False, False, True, False]
    assert [s.vision is None for s in samples] == [False, False, False, True]
    assert [note.partition(";")[0] for note in source.notes] == [
        "sample 'train_vid_2': 1 of 9 numbers of audio are NaN or infinite",
        "sample 'train_vid_3': vision has 0 steps",
        "audio of 1 samples has -inf",
    ]


def test_what_is_padding_may_be_anything(tmp_path):
    content = {"train": split_content(some(), STEPS)}
    content["train"]["audio"][0, 1:] = np.nan
    assert next(iter(read(save(tmp_path / "x.pkl", content)))).audio.shape == (1, 3)


def test_simss_unimodal_labels_are_kept_and_scores_are_the_decimals_they_were(tmp_path):
    content = {"test": split_content(some("test"), STEPS)}
    content["test"] |= {"regression_labels": np.array([0.2, -0.6, 0.8, 0.0], np.float32)}
    content["test"] |= {f"regression_labels_{m}": np.full(4, k / 5, np.float32) for k, m in enumerate("TAV", -1)}
    data = prepare(save(tmp_path / "sims.pkl", content), tmp_path / "data", PrepareSettings())
    samples = list(data.samples("test"))
    assert [s.label for s in samples] == [0.2, -0.6, 0.8, 0.0]
    assert samples[0].unimodal == {"text": -0.2, "audio": 0.0, "vision": 0.2}
    assert (data.info.name, data.info.language, data.info.score_range) == ("sims", "zh", (-1.0, 1.0))


def test_vectors_and_other_spellings_are_taken(tmp_path):
    content = split_content(some("dev"), {})
    content |= {"audio": np.ones((4, 6)), "id": [s.encode() for s in content["id"]]}
    samples = list(read(save(tmp_path / "x.pkl", {"dev": content})))
    assert [s.split for s in samples] == ["valid"] * 4
    assert samples[0].sample_id == "dev_vid_0"
    assert samples[0].audio.shape == (1, 6) and samples[0].vision is None


def test_clips_are_found_beside_and_above(tmp_path):
    clip = tmp_path / "MOSI" / "Raw" / "train_vid" / "1.mp4"
    clip.parent.mkdir(parents=True)
    clip.touch()
    path = write_pickle(tmp_path / "MOSI" / "Processed" / "unaligned_50.pkl", {"train": some()}, STEPS)
    assert [s.clip for s in read(path)] == [None, str(clip), None, None]
    assert [s.clip for s in read(path, clips=tmp_path / "MOSI" / "Raw")] == [None, str(clip), None, None]


LAUGHS: list = ["ha"]
for _ in range(60):
    LAUGHS = [LAUGHS, LAUGHS]  # shared in the file; spelt out it would fill any memory


def without(key):
    return lambda split: split.pop(key)


def with_(key, value):
    return lambda split: split.update({key: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("id"), "split 'train': no id; it has raw_text"),
        (without("raw_text"), "text_bert without raw_text"),
        (with_("raw_text", ["a"]), "raw_text has 1 entries for 4 ids"),
        (with_("raw_text", [1, 2, 3, 4]), "sample 'train_vid_0': raw_text is a int (4 of 4 cannot be used)"),
        (
            with_("regression_labels", [0, 5, 4, -4]),
            "sample 'train_vid_1': label 5 lies outside [-3, 3] (3 of 4 cannot",
        ),
        (with_("audio", np.ones((3, 7, 2))), "audio is float64 (3, 7, 2); expected numbers (4, steps, size)"),
        (with_("audio", np.ones((4, 7, 0))), "audio is float64 (4, 7, 0)"),
        (with_("audio", np.full((4, 7, 2), "a")), "audio is <U1 (4, 7, 2)"),
        (with_("audio", [[1.0]] * 4), "audio is list"),
        (with_("audio_lengths", [8, -1, 8, 1.5]), "audio has a length of 8, of 7 steps (4 of 4 cannot be used)"),
        (with_("audio_lengths", ["1", "2", "3", "4"]), "audio has a length of 1, of 7"),
        (without("audio_lengths"), "no audio_lengths, though another modality has its own"),
        (with_("id", [LAUGHS, "a", "b", "c"]), "split 'train', row 0: id is list; expected text"),
        (with_("id", [None, "a", "b", "c"]), "row 0: id is None; expected text"),
        (with_("id", ["a\nb", "a", "b", "c"]), "row 0: id 'a\\nb' is empty, too long or has control characters"),
        (with_("regression_labels", [LAUGHS, "a", "b", "c"]), "label 'list' is not a number (4 of 4 cannot be used)"),
        (with_("id", ["a$_$1", "a$_$2", "a$_$1", "a$_$3"]), "sample 'a_1': stands in split 'train' already"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, change, said):
    content = {"train": split_content(some(), STEPS)}
    change(content["train"])
    with pytest.raises(BadInput) as error:
        list(read(save(tmp_path / "x.pkl", content)))
    assert said in str(error.value) and str(tmp_path / "x.pkl") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "no split train, valid or test, so not MMSA's layout; it is a list"),
        ({"id": ["a"], "audio": []}, "it has id, audio"),
        ({"train": 7}, "split 'train': not a dictionary of arrays"),
        ({"valid": {}, "dev": {}}, "both valid and dev are there"),
    ],
)
def test_another_layout_is_named(tmp_path, content, said):
    with pytest.raises(BadInput) as error:
        read(save(tmp_path / "x.pkl", content))
    assert said in str(error.value)


def test_a_file_holds_features_of_one_kind(tmp_path):
    content = {"train": split_content(some(), STEPS), "test": split_content(some("test"), STEPS)}
    content["test"]["audio"] = content["test"]["audio"][:, :, :2]
    with pytest.raises(
        BadInput, match="split 'test': audio is mmsa-mosi-unaligned of size 2, in another split .* of size 3"
    ):
        read(save(tmp_path / "x.pkl", content))


def test_ids_of_several_words_are_joined_wherever_they_stand(tmp_path):
    content = split_content(some(), {"audio": 7})
    apart = np.array([["vid", str(i)] for i in range(4)])
    for ids in (apart, apart.tolist(), [np.array(words) for words in apart]):
        samples = read(save(tmp_path / "x.pkl", {"train": content | {"id": ids}}))
        assert [s.sample_id for s in samples] == ["vid_0", "vid_1", "vid_2", "vid_3"]


def test_without_lengths_or_tokens_all_steps_are_read_and_a_note_says_so(tmp_path):
    content = split_content(some(), STEPS, aligned=True)
    source = read(save(tmp_path / "x.pkl", {"train": content}))  # of 50 tokens, and of 7 and 5 steps
    assert {len(s.audio) for s in source} == {7}
    assert "all steps are read, padding too" in source.notes[0]


def test_what_is_wrong_with_one_sample_costs_that_sample_alone_and_is_noted(tmp_path):
    texts = ["a\ud800b", b"a\xe9b", 7, ""]
    content = split_content(some(), {"audio": 7}) | {"raw_text": texts, "audio_lengths": [1, 8, 1.5, 2]}
    content["regression_labels"] = [2.0, LAUGHS, 4, "positive"]
    data = prepare(save(tmp_path / "mosi.pkl", {"train": content}), tmp_path / "data", PrepareSettings())
    samples = list(data.samples("train"))
    assert [s.text for s in samples] == ["a\ufffdb", "a\ufffdb", None, None]
    assert [s.label for s in samples] == [2.0, None, None, None]
    assert [s.audio is None for s in samples] == [False, True, True, False]
    unscored = "kept without a label, so it is answered and not scored"
    assert data.info.notes == [
        "sample 'train_vid_0': text has halves of characters; joined, or U+FFFD stands there",
        "sample 'train_vid_1': audio has a length of 8, of 7 steps; kept without audio",
        "sample 'train_vid_1': raw_text has bytes that are not UTF-8; U+FFFD stands there",
        f"sample 'train_vid_1': label 'list' is not a number; {unscored}",
        "sample 'train_vid_2': audio has a length of 1.5, of 7 steps; kept without audio",
        "sample 'train_vid_2': raw_text is a int; kept without text",
        f"sample 'train_vid_2': label 4 lies outside [-3, 3]; {unscored}",
        f"sample 'train_vid_3': label 'positive' is not a number; {unscored}",
        "sample 'train_vid_3': text is empty; taken as missing",
        "sample 'train_vid_2': no text, features or clip; nobody can answer it",
        "3 samples of split train have no label",
    ]


def test_features_go_by_the_name_of_the_data_or_the_one_that_is_given(tmp_path):
    path = write_pickle(tmp_path / "x.pkl", {"train": some()}, STEPS)
    for told, extractor in (({}, "mmsa-mine-unaligned"), ({"extractor": "covarep"}, "covarep")):
        settings = PrepareSettings(dataset="mine", like="mosi", **told)
        data = prepare(path, tmp_path / extractor, settings)
        assert data.info.features["audio"].extractor == extractor


def test_clips_that_fit_no_sample_are_noted(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    source = read(write_pickle(tmp_path / "x.pkl", {"train": some()}, STEPS), clips=tmp_path / "elsewhere")
    assert len(list(source)) == 4
    assert source.notes == [f"0 of 4 samples have a clip in {tmp_path / 'elsewhere'}"]


def test_a_failed_preparation_leaves_nothing(tmp_path):
    samples = some(count=300)
    content = {"train": split_content(samples, STEPS)}
    content["train"]["id"][299] = "a\nb"
    with pytest.raises(BadInput, match="row 299: id "):
        prepare(save(tmp_path / "mosi.pkl", content), tmp_path / "data", PrepareSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["mosi.pkl"]
