"""What is said in a clip, by the file that lies beside it under its name: .srt, .vtt or .txt."""

import codecs
import io
import re

import av

from uacs.data import places
from uacs.data.faults import Unusable
from uacs.data.media import OPENS_NOTHING
from uacs.errors import BadInput, shown

ENDINGS = (".srt", ".vtt", ".txt")
LONGEST = 2**20  # bytes of such a file: a day of speech
STYLE = re.compile(r"\{\\[^}]*\}")  # as {\i1}
PLACE = 8  # commas before the words of a line, as FFmpeg writes subtitles


def transcript(clip: str) -> str | None:
    """What a clip's file of words says, in order, without times and styles; None where there is none.

    Raises `Unusable` for one that cannot be read.
    """
    for ending in ENDINGS:
        place = places.instead(clip, ending)
        try:
            there = places.is_file(place)
        except (BadInput, OSError, ValueError):  # what the clip itself will come to as well
            return None
        if there:
            return words(place)
    return None


def words(place: str) -> str:
    """What such a file says; raises `Unusable` for one that cannot be read."""
    mend = "write it anew as UTF-8, or remove it"
    try:
        with places.open_file(place) as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise Unusable(f"{shown(place, most=500)} cannot be read ({places.reason(error)})", mend) from None
    if len(content) > LONGEST:
        raise Unusable(f"{shown(place, most=500)} has over {LONGEST} bytes", "cut it")
    try:
        text = content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable(f"{shown(place, most=500)} is not UTF-8", "write it anew as UTF-8") from None
    if places.ends(place, ".txt") or not text.strip():
        return text
    try:
        return " ".join(_lines(text))
    except (av.FFmpegError, ValueError, UnicodeError) as error:
        raise Unusable(f"{shown(place, most=500)} is no file of subtitles ({places.reason(error)})", mend) from None


def _lines(text: str) -> list[str]:
    """The lines that are shown, one after the other; one that stays while the next comes is taken once."""
    found: list[str] = []
    with av.open(io.BytesIO(text.encode()), options=OPENS_NOTHING | {"format_whitelist": "srt,webvtt"}) as container:
        for packet in container.demux():
            for shown_ in packet.decode():
                event = shown_.ass.decode().split(",", PLACE)[-1]
                for line in STYLE.sub("", event).replace("\\n", "\\N").split("\\N"):
                    if line.strip() and line.strip() not in found[-1:]:
                        found.append(line.strip())
    return found
