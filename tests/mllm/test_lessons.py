"""Who is learnt from, in which order, and who is asked stage 3's way: the same however the work is shared."""

import threading

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mllm.conftest import dataset_of
from uacs.errors import BadInput
from uacs.mllm.lessons import Lesson, Task, ahead, check, lessons, share, steps
from uacs.records import Sample

KNOWN = {"y_small": 1.0, "u_small": 0.3}


def of(lengths, known=()):
    return [Lesson(Sample(str(i), text="x" * n), 0.0, KNOWN if i in known else {}) for i, n in enumerate(lengths)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=50), st.integers(1, 5), st.integers(1, 7))
def test_processes_share_a_step_wholly_and_take_as_many_batches_each(lengths, size, at_once):
    step, lessons_ = [Task(i, False) for i in range(len(lengths))], of(lengths)
    shares = [share(step, lessons_, rank, size, at_once) for rank in range(size)]
    dealt = [task for batches in shares for batch in batches for task in batch]
    assert sorted(dealt, key=lambda task: task.lesson) == step
    assert len({len(batches) for batches in shares}) == 1
    assert all(len(batch) <= at_once for batches in shares for batch in batches)
    fullest = max(len(batch) for batches in shares for batch in batches)
    assert len(shares[0]) <= -(-len(lengths) // (size * fullest)) + 1


def test_texts_of_like_length_stand_together():
    batches = share([Task(i, False) for i in range(6)], of([30, 1, 29, 2, 31, 3]), 0, 1, 3)
    assert [sorted(task.lesson for task in batch) for batch in batches] == [[1, 3, 5], [0, 2, 4]]


def test_an_epoch_has_each_lesson_once_in_an_order_of_its_own():
    taken = of([1] * 20)
    first, again, next_ = steps(taken, 8, 0.5, 0, 0), steps(taken, 8, 0.5, 0, 0), steps(taken, 8, 0.5, 0, 1)
    assert first == again != next_
    assert [len(step) for step in first] == [8, 8, 4]
    assert sorted(task.lesson for step in next_ for task in step) == list(range(20))


def test_a_share_of_those_with_earlier_answers_is_asked_twice_and_nobody_else():
    tasks = [task for step in steps(of([1] * 2000, known=range(1000)), 100, 0.35, 0, 0) for task in step]
    twice = [task.lesson for task in tasks if task.twice]
    assert 300 < len(twice) < 400 and max(twice) < 1000
    assert not any(task.twice for step in steps(of([1] * 50, known=range(50)), 8, 0.0, 0, 0) for task in step)


def test_earlier_answers_are_read_and_those_that_are_no_number_passed_over(course, tmp_path):
    ids = [sample.sample_id for sample in course.samples("train")]
    table = pd.DataFrame({"sample_id": ids, "y_small": 0.5, "u_small": 0.1, "y_large": 1.0, "u_large": 0.2})
    table.loc[0, "y_small"], table.loc[1, "y_large"] = float("nan"), float("nan")
    table.to_parquet(tmp_path / "folds.parquet")
    hints = {lesson.sample.sample_id: lesson.hints for lesson in lessons(course, "train", tmp_path / "folds.parquet")}
    assert hints[ids[0]] == {} and hints[ids[1]] == {"y_small": 0.5, "u_small": 0.1}
    assert hints[ids[2]] == {"y_small": 0.5, "u_small": 0.1, "y_large": 1.0, "u_large": 0.2}
    told = [[("margin", 0.3), ("told", 0.7)] if n == 2 else [("cbe", 0.1)] for n in range(len(ids))]
    signals = pa.array(told, pa.map_(pa.string(), pa.float64()))
    pq.write_table(pa.Table.from_pandas(table).append_column("signals", signals), tmp_path / "run.parquet")
    hints = {lesson.sample.sample_id: lesson.hints for lesson in lessons(course, "train", tmp_path / "run.parquet")}
    assert (hints[ids[2]]["u_small"], hints[ids[3]]["u_small"]) == (0.7, 0.1)
    table.assign(sample_id="other").to_parquet(tmp_path / "others.parquet")
    with pytest.raises(BadInput, match=r"others.parquet: answers to none of .*'s samples"):
        lessons(course, "train", tmp_path / "others.parquet")
    table.drop(columns="u_small").to_parquet(tmp_path / "less.parquet")
    for wrong, why in (("less.parquet", "it lacks sample_id, y_small or u_small"), ("gone.parquet", "no such file")):
        with pytest.raises(BadInput, match=rf"{wrong}: no earlier answers .*{why}.*; name the out_of_fold.parquet"):
            lessons(course, "train", tmp_path / wrong)


def test_what_a_training_cannot_do_without_is_said_in_one_line(samples, tmp_path):
    (tmp_path / "half").mkdir()
    half = dataset_of(tmp_path / "half", {"train": samples[:5]})
    with pytest.raises(BadInput, match="split 'valid' is empty: nothing to choose the best by; prepare the data"):
        check(half)
    (tmp_path / "far").mkdir()
    far = dataset_of(tmp_path / "far", {"train": [Sample("far", text="x", label=7.0)]})
    with pytest.raises(BadInput, match=r"sample 'far': label 7 is outside \[-3, 3\]; mend or remove it"):
        lessons(far, "train")
    (tmp_path / "bare").mkdir()
    bare = dataset_of(tmp_path / "bare", {"train": [Sample("bare", text="x")]})
    with pytest.raises(BadInput, match="no sample of split 'train' has a label to learn from"):
        lessons(bare, "train")


def test_results_come_in_order_and_no_more_are_made_than_asked_for():
    made, lock = [], threading.Lock()

    def make(n):
        with lock:
            made.append(n)
        return n * n

    results = ahead(make, range(100), threads=3, most=5)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    assert len(made) <= 15
    results.close()
    assert list(ahead(make, [], 1, 1)) == []
