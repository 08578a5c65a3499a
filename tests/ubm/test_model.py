"""The UBM's parts: true ends of sequences, missing modalities, Table I's groups, the loss of Eq. 9."""

import numpy as np
import pytest
import torch

from uacs.data.prepared import FeatureInfo
from uacs.records import Sample
from uacs.ubm import folder as ubm_folder
from uacs.ubm import training
from uacs.ubm.batches import collate, encode
from uacs.ubm.model import Heads, SequenceEncoder
from uacs.ubm.settings import TrainingSettings, UbmConfig

FEATURES = {"audio": FeatureInfo(size=3, extractor="x"), "vision": FeatureInfo(size=2, extractor="x")}


@pytest.fixture(scope="module")
def built(encoder):
    config = UbmConfig(
        dataset="mosi",
        language="en",
        score_range=(-3, 3),
        features=FEATURES,
        text_encoder=str(encoder),
        training=TrainingSettings(),
    )
    torch.manual_seed(0)
    model, tokenizer = ubm_folder.new(config)
    return model.eval(), tokenizer


def sample(sample_id, text=None, audio=None, vision=None):
    draw = np.random.default_rng(len(sample_id))
    return Sample(
        sample_id,
        text,
        None if audio is None else draw.normal(size=(audio, 3)).astype(np.float32),
        None if vision is None else draw.normal(size=(vision, 2)).astype(np.float32),
    )


def answers(built, samples):
    model, tokenizer = built
    with torch.inference_mode():
        score, logits, _ = model(collate(encode(samples, tokenizer, FEATURES, 32)), len(samples))
    return torch.cat([score[:, None], logits], dim=1).numpy()


def test_the_representation_is_the_hidden_state_at_the_true_end():
    encoder = SequenceEncoder(3, 8, 4, 0.0)
    values = torch.randn(5, 3)
    _, (last, _) = encoder.lstm(values[None])
    alone = encoder.project(last[0])
    (rows,) = collate(encode([sample("long", audio=9), Sample("s", audio=values.numpy())], None, FEATURES, 8)).values()
    assert torch.allclose(encoder(rows)[1], alone[0], atol=1e-6)


def test_any_mixture_of_modalities_answers_as_each_sample_does_alone(built):
    samples = [
        sample("all", "the film was great", 4, 6),
        sample("text", "dull"),
        sample("audio", audio=2),
        sample("vision", vision=1),
        sample("silent", "really quite lovely and warm", None, 3),
    ]
    together = answers(built, samples)
    for i, one in enumerate(samples):
        assert np.allclose(together[i], answers(built, [one])[0], atol=1e-5)


def test_each_modality_counts(built):
    whole = answers(built, [sample("s", "great", 4, 6)])
    for without in ("text", "audio", "vision"):
        given = {"text": "great", "audio": 4, "vision": 6} | {without: None}
        assert not np.allclose(whole, answers(built, [sample("s", **given)]), atol=1e-5)


def test_every_parameter_is_in_one_group_of_table_i(built):
    model, _ = built
    settings = TrainingSettings(lr_text=1, lr_audio=2, lr_vision=3, lr_other=4, decay_text=5, decay_audio=6)
    groups = training._parameter_groups(model, settings)
    rates = {p: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    named = {name: rates[p] for name, p in model.named_parameters()}
    assert sum(len(g["params"]) for g in groups) == len(named)
    assert named["encoders.text.bert.encoder.layer.0.attention.self.query.weight"] == (1, 5)
    assert named["encoders.text.bert.encoder.layer.0.attention.self.query.bias"] == (1, 0)
    assert named["encoders.text.bert.embeddings.LayerNorm.weight"] == (1, 0)
    assert named["encoders.audio.lstm.weight_ih_l0"] == (2, 6)
    assert named["encoders.vision.project.weight"] == (3, settings.decay_vision)
    assert named["classifier.2.weight"] == named["missing.audio"] == (4, settings.decay_other)


def test_the_loss_is_squared_error_plus_cross_entropy_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, batch, size):
            logits = torch.log(torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]))
            return Heads(torch.tensor([1.0, -1.0]), logits, torch.tensor([0.25, 1.5]))

    class Split:
        encoded = encode([sample("a", audio=1), sample("b", audio=1)], None, FEATURES, 8)
        labels, classes = torch.tensor([2.0, -1.5]), torch.tensor([2, 1])

    loss, foreseen, _ = training._loss(Fixed(), Split(), [0, 1], "cpu")
    # ((1 - 2)^2 + (-1 + 1.5)^2) / 2 + (-ln 0.5 - ln 0.8) / 2
    assert loss.item() == pytest.approx((1 + 0.25) / 2 + (-np.log(0.5) - np.log(0.8)) / 2)
    # (|0.25 - |1 - 2|| + |1.5 - |-1 + 1.5||) / 2
    assert foreseen.item() == pytest.approx((0.75 + 1.0) / 2)


def test_rows_of_all_lengths_are_read_as_each_alone_and_with_little_padding(built):
    model, _ = built
    samples = [sample(f"s{n}", "good " * n) for n in (30, 1, 17, 2, 29, 1, 16, 30) * 8]
    read = []
    hook = model.encoders["text"].bert.register_forward_pre_hook(
        lambda _, args, asked: read.append(tuple(asked["input_ids"].shape)), with_kwargs=True
    )
    together = answers(built, samples)
    hook.remove()
    alone = np.concatenate([answers(built, [one]) for one in samples])
    assert together == pytest.approx(alone, abs=1e-5)
    words = sum(min(len(one.text.split()) + 2, 32) for one in samples)
    assert sum(rows * length for rows, length in read) < 1.1 * words
    assert len(read) < len(samples)


def test_one_very_long_clip_does_not_lengthen_the_others(built):
    model, _ = built
    samples = [sample(f"s{n}", "good", vision=3 + n % 5) for n in range(60)] + [sample("long", "good", vision=9_000)]
    read = []
    hook = model.encoders["vision"].lstm.register_forward_pre_hook(lambda _, args: read.append(args[0].shape))
    together = answers(built, samples)
    hook.remove()
    alone = np.concatenate([answers(built, [one]) for one in samples])
    assert together == pytest.approx(alone, abs=1e-5)
    assert sum(rows * steps for rows, steps, _ in read) < 9_000 + 60 * 8
