"""The page at `/`, as a visitor has it: typed at, given a clip, on a desk and on a phone, with a keyboard alone."""

import json
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, browsing
from tests.cluster.chaos import wait_until
from tests.cluster.serving.conftest import serving
from uacs.cluster.serving.keys import add
from uacs.cluster.serving.settings import EndpointSettings
from uacs.data.prepared import PreparedDataset

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
DONE = "!document.querySelector('#answer').hasAttribute('aria-busy')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def title(tab):
    return tab.run("document.querySelector('#answer-title').textContent")


def shown(tab):
    return tab.run("document.querySelector('#answer').innerText")


def answered(tab, *titles):
    wait_until(lambda: tab.run(DONE) and title(tab) in titles, 30)
    return shown(tab)


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_a_sentence_is_answered_by_the_keyboard_alone(tab, endpoint, client, width):
    tab.open(f"{endpoint}/", width)
    wait_until(lambda: "scores as demo" in tab.run("document.body.innerText"))
    for _ in range(30):
        tab.press("Tab")
        if tab.run("document.activeElement.id") == "text":
            break
    tab.type("the film was wonderful")
    tab.press("Enter", modifiers=2)
    said = answered(tab, "Answer")
    answer = client.predict("the film was wonderful")
    assert f"{answer.prediction:+.2f}".replace("-", "−") in said and answer.polarity in said
    assert ("doubted" in said) == (answer.u_small > answer.tau_small)
    assert "voice" in said  # which was missing
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert not tab.said


def test_a_clip_is_shown_and_answered(tab, endpoint, tiny_demo):
    clip = next(s.clip for s in PreparedDataset(tiny_demo[0] / "data").samples("test"))
    tab.open(f"{endpoint}/", 1280)
    tab.give("#clip", clip)
    wait_until(lambda: tab.run("document.querySelector('#clip-name').textContent").startswith(Path(clip).name))
    tab.run("document.querySelector('#max-stage [value=small]').click()")
    tab.run("document.querySelector('#ask').click()")
    assert "s in all" in answered(tab, "Answer") and not tab.said


def test_what_is_wrong_is_said_and_markup_stays_text(tab, endpoint, tmp_path):
    (tmp_path / "<b>x.mp4").write_bytes(b"no clip")
    tab.open(f"{endpoint}/", 390)
    tab.give("#clip", str(tmp_path / "<b>x.mp4"))
    tab.run(f"document.querySelector('#text').value = {json.dumps('<img src=x onerror=alert(1)>')}")
    tab.run("document.querySelector('#ask').click()")
    assert "not a clip that decodes" in answered(tab, "This cannot be read")
    assert tab.run("document.querySelectorAll('#answer img, #answer b b').length") == 0


def test_a_key_is_asked_for_and_used(tab, recordings, tmp_path):
    key = add(tmp_path / "keys", "visitor")
    with serving(EndpointSettings(**recordings, keys=str(tmp_path / "keys")), "keyed") as url:
        tab.open(f"{url}/", 1280)
        wait_until(lambda: tab.run("!document.querySelector('#keyform').hidden"))
        tab.run("document.querySelector('#key').focus()")
        tab.type(key)
        tab.run("document.querySelector('#use-key').click()")
        wait_until(lambda: "scores as mosi" in tab.run("document.body.innerText"))
