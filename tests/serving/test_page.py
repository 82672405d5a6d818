"""The page of a real server in a real browser: by keyboard, with errors, light, dark and narrow."""

from __future__ import annotations

import numpy as np
import pytest
from browser import BROWSER, browsing
from matplotlib.image import imread
from served import serving

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
TEXT = "document.getElementById('{}').innerText"
ENTER, TAB = ("Enter", 13), ("Tab", 9)
NO_ANSWER = "document.querySelectorAll('article').length === 0"
# Contrast ratio of each element that shows a text of its own, against the ground behind it (WCAG 2.2, 1.4.3)
CONTRASTS = """(() => {
  const light = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255);
    const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$/.test(color)) return light(color);
    }
    return 1;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const own = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const shown = [...document.querySelectorAll("body *")].filter((e) => own(e) && e.offsetParent);
  const texts = shown.map((e) => ratio(light(getComputedStyle(e).color), ground(e)));
  const bars = [...document.querySelectorAll(".bar")].map((e) => ratio(ground(e), ground(e.parentElement)));
  return { texts: Math.min(...texts), bars: Math.min(...bars), count: texts.length };
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def ask(page, first: str, second: str = "") -> None:
    """Type a text, or a pair, and press Ctrl + Enter."""
    page.value("document.getElementById('answers').replaceChildren(); document.getElementById('form').reset()")
    page.value("document.getElementById('first').focus()")
    page.type(first)
    if second:
        page.press(*TAB)
        page.type(second)
    page.press(*ENTER, control=True)


def test_every_head_answers_by_keyboard_in_each_look(page, server, tmp_path):
    page.open(server.url)
    assert page.value("document.activeElement.id") == "first"
    shown = []
    for width, scheme in ((1200, "light"), (1200, "dark"), (400, "light"), (400, "dark")):
        page.look(width, scheme)
        ask(page, "the cat sleeps")
        page.wait("document.querySelectorAll('article').length === 4")
        answer = server.ask("the cat sleeps").json()["predictions"][0]
        assert page.value("[...document.querySelectorAll('h2')].map((h) => h.innerText)") == list(answer)
        shares = [share for each in answer.values() for share in each.get("probabilities", {}).values()]
        widths = page.value(
            "[...document.querySelectorAll('.bar')].map((b) => b.offsetWidth / b.parentElement.offsetWidth)"
        )
        assert widths == pytest.approx(shares, abs=0.02)
        said = page.value(TEXT.format("status"))
        assert said.startswith("4 heads answer.") and f"mood: {answer['mood']['label']}" in said
        assert f"confidence {100 * answer['mood']['confidence']:.1f} %" in page.value(TEXT.format("answers"))
        assert page.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        contrast = page.value(CONTRASTS)
        assert contrast["count"] > 20 and contrast["texts"] >= 4.5 and contrast["bars"] >= 3
        page.picture(tmp_path / f"{scheme}-{width}.png")
        pixels = imread(tmp_path / f"{scheme}-{width}.png")[:, :, :3]
        assert pixels.shape[1] == width and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 30
        shown.append(np.median(pixels))
    assert min(shown[0], shown[2]) > 0.9 and max(shown[1], shown[3]) < 0.2  # the ground is light, or dark
    ask(page, "a dog runs", "a dog eats")
    page.wait("document.querySelectorAll('article').length === 2")
    assert page.value("[...document.querySelectorAll('h2')].map((h) => h.innerText)") == ["same", "close"]
    assert page.problems() == []
    assert {address.split("/")[2] for address in page.addresses()} == {server.url.split("/")[2]}


def test_a_text_is_shown_as_text_and_labels_name_the_fields(page, server):
    page.open(server.url)
    ask(page, "<img src=x onerror=alert(1)>")
    page.wait("document.querySelectorAll('article').length === 4")
    fields = page.value("[...document.querySelectorAll('textarea, input')].map((e) => e.labels[0].innerText)")
    assert fields == ["Text", "Second text, for heads that compare two", "API key"]
    assert not page.value("document.getElementById('key').checkVisibility()")
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("[document.documentElement.lang, document.title.length > 0].join()") == "en,true"
    page.press(*TAB)
    page.press(*TAB)
    assert page.value("document.activeElement.id") == "ask"
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.value("document.getElementById('answers').replaceChildren()")
    page.press(*ENTER, text="\r")  # the button
    page.wait("document.querySelectorAll('article').length === 4")
    blocked = (
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'})), !window.ran"
    )
    assert page.value(blocked)  # a script in the page is not run
    page.events.clear()


def test_errors_are_shown_and_a_key_is_asked_for(page, checkpoint, tmp_path):
    (tmp_path / "keys").write_text("the-key-of-the-page\n")
    options = ["--api_key_file", tmp_path / "keys", "--max_tokens", 50]
    with serving(checkpoint, tmp_path / "log", *options) as server:
        page.open(server.url)
        ask(page, "the cat")
        page.wait("document.activeElement.id === 'key'")
        assert "send a key" in page.value(TEXT.format("problem")) and page.value(NO_ANSWER)
        page.type("the-key-of-the-page")
        page.press(*ENTER, control=True)
        page.wait("document.querySelectorAll('article').length === 4")
        page.value("document.getElementById('first').value = 'cat '.repeat(60)")
        page.press(*ENTER, control=True)
        page.wait(f"{TEXT.format('problem')}.startsWith('inputs has 62 tokens, but may have 50')")
        assert page.value(NO_ANSWER) and page.value(TEXT.format("status")) == ""
    page.press(*ENTER, control=True)
    page.wait(f"{TEXT.format('problem')} === 'The server does not answer.'")
