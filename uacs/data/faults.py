"""What is wrong with single samples: it costs each of them what it must, is noted by name, and stops no other.

What is wrong with a whole column is another matter: then its name or the settings are wrong, and the source is
refused, after its first thousand cells where it has so many, before hours are spent on it.
"""

from collections import Counter
from dataclasses import dataclass

from uacs.errors import BadInput, shown

MOST_NAMED = 100
"""Samples that are named for one consequence; of the others a note says how many they are."""

FIRST_LOOK = 1000
"""Cells after which a column must have shown that it can be used."""


class Unusable(Exception):
    """A cell that cannot be used: its fault, and the mend that is advised where all are like it."""

    def __init__(self, fault: str, mend: str):
        super().__init__(fault)
        self.fault, self.mend = fault, mend


class SampleNotes:
    """Notes that name a sample: of each consequence, of which there are few, the first hundred and a count.

    >>> notes = SampleNotes()
    >>> notes.add("v_1", "audio has 0 steps", "kept without audio")
    >>> notes.lines()
    ["sample 'v_1': audio has 0 steps; kept without audio"]
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._minor: list[str] = []
        self._named: Counter[str] = Counter()
        self._unnamed: Counter[str] = Counter()

    def add(self, sample_id: str, fault: str, then: str, minor: bool = False) -> None:
        """Note a sample's fault and what becomes of the sample; what is `minor` is said last."""
        if self._named[then] < MOST_NAMED:
            self._named[then] += 1
            (self._minor if minor else self._lines).append(f"sample '{shown(sample_id)}': {fault}; {then}")
        else:
            self._unnamed[then] += 1

    def count(self, then: str, samples: int) -> None:
        """Note samples without their names."""
        self._unnamed[then] += samples

    def lines(self) -> list[str]:
        """One line a note."""
        more = [f"{count} more samples: {then}" for then, count in self._unnamed.items() if count]
        return self._lines + self._minor + more


@dataclass
class _Tally:
    """The cells of one column that are not empty: how many can be used and cannot; the first refusal."""

    used: int = 0
    lost: int = 0
    refusal: tuple[str, str] = ("", "")

    def check(self, enough: float) -> None:
        total = self.used + self.lost
        if self.lost and (not self.used or self.used < enough * total):
            fault, mend = self.refusal
            raise BadInput(f"{fault}{f' ({self.lost} of {total} cannot be used)' if total > 1 else ''}; {mend}")


class Faults:
    """Cells that cannot be used, column by column, and the notes on their samples."""

    def __init__(self) -> None:
        self.notes = SampleNotes()
        self._tallies: dict[tuple[str, float], _Tally] = {}

    def used(self, column: str, enough: float = 0.0) -> None:
        """Count a cell that can be used; `enough` is the share of a column that must be, at least one cell."""
        self._counted(column, enough).used += 1
        self._look(column, enough)

    def lost(self, column: str, sample_id: str, where: str, error: Unusable, then: str, enough: float = 0.0) -> None:
        """Count and note a cell that cannot be used; raises `BadInput` where too few of the first thousand can."""
        tally = self._counted(column, enough)
        tally.lost += 1
        if tally.lost == 1:
            tally.refusal = f"{where}: {error.fault}", error.mend
        self.notes.add(sample_id, error.fault, then)
        self._look(column, enough)

    def settle(self) -> list[str]:
        """All notes, once everything is read; raises `BadInput` for a column of which too little can be used."""
        for (_, enough), tally in self._tallies.items():
            tally.check(enough)
        return self.notes.lines()

    def _counted(self, column: str, enough: float) -> _Tally:
        return self._tallies.setdefault((column, enough), _Tally())

    def _look(self, column: str, enough: float) -> None:
        tally = self._tallies[column, enough]
        if tally.used + tally.lost == FIRST_LOOK:
            tally.check(enough)


class Widths:
    """Numbers a step of one modality: what more than half of its samples have is the dataset's size.

    Whatever comes first, so the order of the rows decides nothing. The others are kept as they are: a UBM
    refuses them one by one.
    """

    def __init__(self, modality: str, where: str):
        self.modality, self.where = modality, where
        self._count: Counter[int] = Counter()
        self._samples: dict[int, list[str]] = {}

    def add(self, size: int, sample_id: str) -> None:
        """Count a sample; raises `BadInput` where the first thousand have no size in common."""
        self._count[size] += 1
        named = self._samples.setdefault(size, [])
        if len(named) < MOST_NAMED:
            named.append(sample_id)
        if self._count.total() == FIRST_LOOK:
            self.size()

    @property
    def known(self) -> bool:
        """Whether any sample has this modality."""
        return bool(self._count)

    def size(self) -> int:
        """The dataset's size so far; raises `BadInput` where there is none."""
        (size, count), *others = self._count.most_common(2)
        if 2 * count <= self._count.total():
            other = others[0][0]
            a, b = (f"{n} in sample '{shown(self._samples[n][0])}'" for n in (size, other))
            raise BadInput(
                f"{self.where}: {self.modality} has {a}, {b}, and no size more than half of the samples have; give all "
                f"of them one size a step (flat numbers need {self.modality}_steps)"
            )
        return size

    def settle(self, notes: SampleNotes) -> int:
        """The dataset's size, with a note on each sample of another."""
        main, then = self.size(), f"kept as it is, for a UBM that reads {self.modality} an error"
        for size, samples in self._samples.items():
            if size != main:
                for sample_id in samples:
                    fault = f"{self.modality} has {size} numbers a step where most samples have {main}"
                    notes.add(sample_id, fault, then)
                notes.count(then, self._count[size] - len(samples))
        return main
