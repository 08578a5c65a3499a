"""A speech recogniser writes down what nobody else did: a tiny one, which says letters, in prepare and by itself."""

import numpy as np
import pytest

from tests import tiny_recogniser
from tests.data.test_media import GREYS, tone, write
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.speech import Recogniser, identity
from uacs.errors import BadInput
from uacs.records import Footage, Sample


def test_what_is_heard_is_words_and_the_same_each_time(recogniser):
    listener = Recogniser(recogniser, "en")
    voice = tone(300, 16000, 2.0)
    words = listener.words(voice, 16000)
    assert words and set(words) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert Recogniser(recogniser, "en").words(voice, 16000) == words
    assert listener.words(tone(300, 16000, 33.0), 16000)
    assert listener.words(np.zeros(1500, np.float32), 16000) is None


def test_whisper_hears_each_language_and_more_than_its_half_minute(tmp_path):
    tiny_recogniser.save_whisper(tmp_path)
    voice = tone(300, 16000, 2.0)
    words = Recogniser(str(tmp_path), "en").words(voice, 16000)
    assert words and set(words) <= set("abcdefghijklmnopqrstuvwxyz ")
    with pytest.raises(BadInput, match="does not know the data's language, de; name a recogniser that does"):
        Recogniser(str(tmp_path), "de")
    assert len(Recogniser(str(tmp_path), "zh").words(tone(300, 16000, 65.0), 16000)) > len(words)


def test_only_who_has_no_transcript_is_listened_to(recogniser):
    listener = Recogniser(recogniser, "en")
    film = Footage(None, np.empty(0), tone(300, 16000, 1.0), 16000)
    silent = Footage(None, np.empty(0), None, 16000)
    samples = [Sample("a", "its own", footage=film), Sample("b", " ", footage=film), Sample("c", footage=silent)]
    samples += [Sample("d"), Sample("e", footage=film)]
    heard = listener.written_down(samples)
    assert [s.text for s in heard] == ["its own", heard[1].text, None, None, heard[1].text] and heard[1].text.strip()


def test_what_is_no_recogniser_is_said_in_a_line(tmp_path):
    with pytest.raises(BadInput, match="nothing_there: is no speech recogniser .*; name a checkpoint of one"):
        Recogniser(str(tmp_path / "nothing_there"), "en")


def test_prepare_writes_down_what_is_said(recogniser, tmp_path):
    (tmp_path / "clips").mkdir()
    for name, sound in (("a", tone(300, 16000)), ("b", None), ("c", tone(500, 16000))):
        write(tmp_path / "clips" / f"{name}.mp4", GREYS, sound)
    (tmp_path / "clips" / "c.txt").write_text("known")
    (tmp_path / "clips" / "d.mp4").write_bytes(b"no clip")
    told = PrepareSettings.model_validate({"dataset": "mosi", "decoding": {"speech": recogniser}})
    data = prepare(tmp_path / "clips", tmp_path / "data", told)
    texts = {s.sample_id: s.text for s in data.samples("test")}
    assert texts["a"] and texts["b"] is None and texts["c"] == "known" and texts["d"] is None
    assert "1 transcripts are what a speech recogniser heard" in data.info.notes
    assert len(identity(recogniser)) == 16 and identity("openai/whisper-small") == "openai/whisper-small"
