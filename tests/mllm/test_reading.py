import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uacs.mllm.reading import label_tokens, pieces_of, read, spell, token_entropies

RANGE = (-3.0, 3.0)


def parsed(text, score_range=RANGE, finished=True):
    return read(list(text), [0.1] * len(text), score_range, finished)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("1", 1.0),
        ("1.0", 1.0),
        ("+1.0", 1.0),
        ("-1.4", -1.4),
        (".5", 0.5),
        ("−0.4", -0.4),  # typographic minus
        ("－０．４", -0.4),  # full width
        ("＋１。", 1.0),
        (" \n-2.6.\n", -2.6),
        ("0", 0.0),
        ("2.75", 2.75),
    ],
)
def test_one_number_is_an_answer(text, score):
    answer = parsed(text)
    assert (answer.status, answer.y) == ("ok", score)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "positive",
        "1 or 2",
        "-3 to 3",
        "about 1.4",
        "1.4 out of 3",
        "+ 1.4",
        "--1",
        "1..",
        "1e1",
        "1,4",
        "1/2",
        "½",
        "nan",
        "inf",
        "–1.4",  # a dash may be a bullet
        "<|im_start|>1.4",
        "Score: 1.4",
    ],
)
def test_anything_else_is_unparsable_and_has_no_score(text):
    answer = parsed(text)
    assert answer.status == "unparsable"
    assert np.isnan([answer.y, answer.u]).all()


def test_an_answer_that_was_cut_off_is_no_answer():
    assert parsed("-1", finished=False).status == "unparsable"


def test_a_score_outside_the_range_is_set_to_its_end_and_said_to_be():
    assert (parsed("+3.1").status, parsed("+3.1").y) == ("clipped", 3.0)
    assert (parsed("-9").status, parsed("-9").y) == ("clipped", -3.0)
    assert parsed("1.5", (-1.0, 1.0)).y == 1.0
    assert (parsed("3.0").status, parsed("-3").status) == ("ok", "ok")


def test_zero_has_no_sign():
    assert math.copysign(1, parsed("-0.0").y) == 1
    assert spell(-0.0) == spell(-0.04) == spell(0.0) == "+0.0"


def test_uncertainty_is_the_mean_over_the_tokens_that_spell_the_number():
    # white space, the closing full stop and what follows it do not count: (0.1 + 0.2 + 0.3 + 0.6) / 4
    answer = read(["\n", "+", "1", ".", "4", ".", "\n"], [9, 0.1, 0.2, 0.3, 0.6, 9, 9], RANGE, True)
    assert answer.u == pytest.approx(0.3)


def test_a_token_that_holds_the_sign_and_a_space_counts():
    assert read([" -", "1"], [0.4, 0.2], RANGE, True).u == pytest.approx(0.3)


def test_the_bytes_of_a_split_character_belong_to_it():
    ids = list("−1".encode())  # the minus is three bytes, here three tokens
    pieces = pieces_of(ids, lambda k: bytes(k).decode(errors="replace"))
    assert pieces == ["", "", "−", "1"]
    assert read(pieces, [0.1, 0.2, 0.3, 0.6], RANGE, True).u == pytest.approx(0.3)


def test_an_overflow_is_no_answer():
    assert read(["1"], [math.nan], RANGE, True).status == "unparsable"


def test_entropy_is_over_the_whole_vocabulary_in_nats():
    rows = [[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3), -math.inf, -math.inf], [0.0, 99.0, 0.0, 0.0]]
    logits = torch.tensor(rows, dtype=torch.float64)
    # uniform over four; (1/4, 3/4); certain
    by_hand = [math.log(4), 0.25 * math.log(4) + 0.75 * math.log(4 / 3), 0.0]
    assert token_entropies(logits).tolist() == pytest.approx(by_hand, abs=1e-9)


@given(st.floats(-3, 3))
def test_what_spell_writes_is_read_back_to_one_decimal(score):
    answer = parsed(spell(score))
    assert answer.status == "ok"
    assert answer.y == pytest.approx(score, abs=0.0500001)


@given(st.text(alphabet="+-−.0123456789 \n。x", max_size=8))
def test_no_text_yields_a_score_outside_the_range_or_without_uncertainty(text):
    answer = parsed(text)
    if answer.status == "unparsable":
        assert np.isnan([answer.y, answer.u]).all()
    else:
        assert RANGE[0] <= answer.y <= RANGE[1]
        assert answer.u == pytest.approx(0.1)


@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from([" ", "\n", ", ", " or ", "..", "x"]))
def test_two_numbers_are_never_one_answer(a, b, between):
    assert parsed(spell(a) + between + spell(b)).status == "unparsable"


@given(st.lists(st.text(alphabet="ab", max_size=3), min_size=1, max_size=6).filter(any), st.data())
def test_label_tokens_are_those_that_share_a_character_with_the_span(pieces, data):
    text = "".join(pieces)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    chosen, at = label_tokens(pieces, start, end), 0
    for k, piece in enumerate(pieces):
        if piece:
            assert (k in chosen) == bool(set(range(at, at + len(piece))) & set(range(start, end)))
        at += len(piece)
