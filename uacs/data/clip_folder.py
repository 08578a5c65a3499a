"""A folder of clips and nothing else: each is a sample of split test, known by its path within the folder."""

from collections import Counter
from collections.abc import Iterator

from uacs.data import places
from uacs.data.faults import SampleNotes, Unusable
from uacs.data.places import Place
from uacs.data.prepared import FeatureInfo
from uacs.data.source import identifier, words
from uacs.data.subtitles import transcript
from uacs.errors import BadInput
from uacs.records import Sample

FILMS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".gif",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
)
SOUNDS = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus")
ENDINGS = FILMS + SOUNDS
"""Of files that are clips, in small letters or capitals."""


class ClipFolder:
    """The samples of a folder, in the order of their names, with the words that lie beside them (`subtitles.py`)."""

    def __init__(self, place: Place):
        self.place = place
        self.names = clips_under(place)
        if not self.names:
            raise BadInput(f"{place}: no clip lies there; name a folder with some, as {', '.join(ENDINGS[:4])}")
        self.count: int | None = len(self.names)
        self.provides: set[str] = set()
        self.features: dict[str, FeatureInfo] = {}
        self.notes = [f"{place}: clips alone, so nothing can be learned or scored, and every sample is of split test"]

    def __iter__(self) -> Iterator[Sample]:
        """A clip's id is its path without the ending, unless there is another clip of that name."""
        times, notes = Counter(map(_stem, self.names)), SampleNotes()
        seen: set[str] = set()
        for name in self.names:
            plain = "".join(c if c.isprintable() else "_" for c in name)
            sample_id = identifier(_stem(plain) if times[_stem(name)] == 1 else plain, str(self.place))
            if sample_id in seen:
                raise BadInput(f"{self.place}: two clips come to the id '{sample_id}'; give one another name")
            seen.add(sample_id)
            clip = places.within(self.place, name)
            yield Sample(sample_id, _text(clip, sample_id, notes), clip=clip, split="test")
        self.notes += notes.lines()


def clips_under(place: Place) -> list[str]:
    """The clips below a folder, each relative to it, in order; hidden files are none."""
    names = (name for name in places.files_under(place, "") if name.lower().endswith(ENDINGS))
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _text(clip: str, sample_id: str, notes: SampleNotes) -> str | None:
    """The words beside a clip; None, with a note, where they cannot be read."""
    try:
        text = transcript(clip)
    except Unusable as error:
        notes.add(sample_id, error.fault, "taken without a transcript")
        return None
    return None if text is None else words(text, sample_id, notes)
