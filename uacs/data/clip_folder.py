"""A folder of clips and nothing else: each is a sample of split test, known by its path within the folder."""

from collections import Counter
from collections.abc import Iterator

from uacs.data import places, subtitles
from uacs.data.faults import SampleNotes, Unusable
from uacs.data.places import Place
from uacs.data.prepared import FeatureInfo
from uacs.data.source import identifier, words
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
        self._files = places.files_under(place, "")
        self.names = sorted(filter(_is_clip, self._files))
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
            yield Sample(sample_id, self._text(name, sample_id, notes), clip=clip, split="test")
        self.notes += notes.lines()

    def _text(self, name: str, sample_id: str, notes: SampleNotes) -> str | None:
        """The words beside a clip; None, with a note, where they cannot be read."""
        beside = [_stem(name) + ending for ending in subtitles.ENDINGS if _stem(name) + ending in self._files]
        if not beside:
            return None
        try:
            return words(subtitles.words(places.within(self.place, beside[0])), sample_id, notes)
        except Unusable as error:
            notes.add(sample_id, error.fault, "taken without a transcript")
            return None


def has_clips(place: Place) -> bool:
    """Whether a clip lies below a folder; no more of it is listed than tells."""
    return any(_is_clip(name) for name in places.walk(place))


def _is_clip(name: str) -> bool:
    """Hidden files are none, whatever they are called."""
    return name.lower().endswith(ENDINGS) and not any(part.startswith(".") for part in name.split("/"))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
