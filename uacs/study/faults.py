"""The cascade where its thresholds were not made: over test clips that are spoilt, and over other data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from uacs import fingerprints, mllm
from uacs.cascade import outcomes
from uacs.cascade.outcomes import column, with_decision
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.runs import Run, read_thresholds, write_outcome
from uacs.data.prepared import PreparedDataset
from uacs.mllm import MllmSettings, build
from uacs.mllm.chunk import Chunk, ChunkAnswer, answer_chunk, ask
from uacs.records import LargeOutput, Sample, SmallOutput
from uacs.study import small as smalls
from uacs.study.large import Expert
from uacs.study.layout import Study
from uacs.study.settings import Fault

Answers = Callable[[list[Chunk]], list[ChunkAnswer]]


def thresholds_of(study: Study, name: str) -> Thresholds:
    """Those that a large model's calibration has set."""
    return read_thresholds(study.run(name, "calibration") / "thresholds.json")


def _made(study: Study, name: str, fault: str) -> str:
    """What the cascade over a fault depends on."""
    thresholds, info = thresholds_of(study, name), study.dataset.info
    asked = mllm.identity(
        study.settings.large[name].model, study.of_large(name), info.language, info.score_range, info.name
    )
    answered = smalls.made_of(study.small(study.settings.seeds[0], fault))
    return fingerprints.of_settings([answered, thresholds.tau_small, thresholds.tau_large, asked])


def is_asked(study: Study, name: str, fault: str) -> bool:
    """Whether the cascade over a fault is there, by these models and thresholds."""
    return smalls.made_of(study.fault(name, fault)) == _made(study, name, fault)


def spoil(study: Study, name: str, asked: Expert, fault: Fault, counted: Callable[[int, int], None] | None) -> None:
    """The cascade over spoilt test clips: the thresholds are those of whole ones, the large model sees what is left.

    Noise is on the UBM's features alone, so there the large model's first answers are those to whole clips.
    """
    thresholds = thresholds_of(study, name)
    known = _large_outputs(study, name) if fault == "noise" else {}

    def answers(chunks: list[Chunk]) -> list[ChunkAnswer]:
        if known:
            chunks = [replace(chunk, large=[known[sample.sample_id] for sample in chunk.samples]) for chunk in chunks]
        done = np.cumsum([len(chunk.samples) for chunk in chunks])
        return asked.ask(chunks, fault, lambda n: counted(int(done[n - 1]), int(done[-1])) if counted else None)

    outputs = small_outputs(study.small(study.settings.seeds[0], fault))
    taus = thresholds.tau_small, thresholds.tau_large
    table = _cascade(study.test, outputs, taus, asked.chunk_size, answers, study.dataset.info.name)
    write_outcome(study.fault(name, fault), smalls.signed(table, _made(study, name, fault)))


def _large_outputs(study: Study, name: str) -> dict[str, LargeOutput]:
    """A large model's answers to whole test clips."""
    table = Run.open(study.run(name, "baseline")).table()
    numbers = zip(*(column(table, what) for what in ("y_large", "u_large", "seconds_large")), strict=True)
    ids, statuses = table["sample_id"].to_pylist(), table["large_status"].to_pylist()
    return {i: LargeOutput(y, u, s, seconds) for i, s, (y, u, seconds) in zip(ids, statuses, numbers, strict=True)}


def _cascade(
    samples: dict[str, Sample],
    outputs: dict[str, SmallOutput],
    taus: tuple[float, float],
    size: int,
    answers: Answers,
    dataset: str,
) -> pa.Table:
    """Algorithm 1's outcomes over samples whose small answers are there."""
    names = sorted(samples)
    small, seen = [outputs[name] for name in names], [samples[name] for name in names]
    due = np.array([output.u for output in small]) > taus[0]
    answer = ask(seen, small, due, taus[1], "due", size, answers, dataset)
    return with_decision(outcomes.build(seen, small, answer.large, answer.verify), *taus)


def small_outputs(place: Path) -> dict[str, SmallOutput]:
    """A UBM's answers by sample, with the entropy as doubt."""
    found, nan = {}, float("nan")
    for row in smalls.read(place).to_pylist():
        signals, p = dict(row["signals"]), tuple(row["p"] or (nan, nan, nan))
        said = SmallOutput(nan if row["y"] is None else row["y"], signals.get("cbe", nan), p)
        found[row["sample_id"]] = replace(said, seconds=row["seconds"] or 0.0, error=row["error"], signals=signals)
    return found


def carry(study: Study, name: str) -> bool:
    """Another dataset's samples by the thresholds of this one's; where its large answers are on record, the cascade.

    Returns whether that was still to be done.
    """
    other, main = study.settings.elsewhere[name], study.settings.main
    thresholds, answered = thresholds_of(study, main), study.small(study.settings.seeds[0], f"at-{name}")
    taus, place = (thresholds.tau_small, thresholds.tau_large), study.fault(main, f"at-{name}")
    recorded = other.recorded and fingerprints.of_place(Path(other.recorded.removeprefix(mllm.RECORDED)))
    made = fingerprints.of_settings([smalls.made_of(answered), *taus, recorded])
    if smalls.made_of(place) == made:
        return False
    there = PreparedDataset(other.data)
    samples = {s.sample_id: replace(s, audio=None, vision=None) for s in there.samples(other.split)}
    outputs, info = small_outputs(answered), there.info
    if other.recorded is None:
        names, nobody = sorted(samples), [LargeOutput()] * len(samples)
        table = outcomes.build([samples[n] for n in names], [outputs[n] for n in names], nobody, nobody)
        table = with_decision(table, *taus)
    else:
        large = build(other.recorded, MllmSettings(), info.score_range, info.language, info.name)
        size = study.settings.run.chunk_size

        def answers(chunks: list[Chunk]) -> list[ChunkAnswer]:
            return [answer_chunk(large, chunk) for chunk in chunks]

        table = _cascade(samples, outputs, taus, size, answers, info.name)
    write_outcome(place, smalls.signed(table, made))
    return True
