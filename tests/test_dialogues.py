"""The page of dialogues: what it shows and plays in a browser, that it fetches nothing, and its two languages."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from windows import make_rows

from constants import EMOTIONS, ROLES
from metric import HEADINGS, PROBABILITIES
from reports.dialogues import say, write_dialogues_page
from reports.groups import GROUPS
from reports.tables import BASELINES, CALIBRATED, GROUP_HEADINGS

VISIBLE = "[...$('rows').children].flatMap((e, i) => e.checkVisibility() ? [i] : [])"
SELECTED = "[...$('rows').children].findIndex(e => e.getAttribute('aria-current') === 'true')"
EVIL = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'> & \"%22\" 'x' \\ \u2028 안녕"


def opened(browser, path, width=1280, scheme="light"):
    browser.events.clear()
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=True)
    browser.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(path)


def wait(browser, expression):
    browser.wait(lambda: browser.evaluate(f"Boolean({expression})"))


def press(browser, key):
    code = {" ": "Space"}.get(key, key)
    browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, text=key if len(key) == 1 else "")
    browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)


def click(browser, selector):
    place = "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
    place += f" return [r.x + r.width / 2, r.y + r.height / 2] }})(document.querySelector({json.dumps(selector)}))"
    x, y = browser.evaluate(place)
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def choose(browser, control, value):
    browser.evaluate(f"$('{control}').value = {json.dumps(value)}; $('{control}').dispatchEvent(new Event('input'))")


def texts(browser, selector):
    return browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")


@pytest.fixture(scope="module")
def rows():
    """Rows of two corpora, whose dialogues have the same names but for the corpus."""
    second = make_rows(corpus="KEMDy20")
    return pd.concat([make_rows(), second.assign(dialogue="KEMDy20 " + second["dialogue"])], ignore_index=True)


@pytest.fixture(scope="module")
def page(rows, tmp_path_factory):
    """The page of a test, with a wav for each utterance of the first two dialogues but one."""
    top = tmp_path_factory.mktemp("my runs #1")
    audio = {}
    for name in rows["segment_id"][:16].drop(3):
        audio[name] = top / "corpus" / "wav" / f"{name}.wav"
        audio[name].parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(audio[name], np.zeros(2400), 8000)
    audio[rows["segment_id"].iloc[15]].unlink()
    (top / "run").mkdir()
    about = {"title": "Tested dialogues", "run": "run", "role": "speaker"}
    write_dialogues_page(top / "run" / "dialogues.html", rows, audio, **about)
    return top / "run" / "dialogues.html"


def test_a_tested_dialogue_is_shown_filtered_selected_and_played(browser, page, rows):
    opened(browser, page)
    names = rows["dialogue"].drop_duplicates().tolist()
    first = rows[rows["dialogue"] == names[0]].reset_index(drop=True)
    n = len(first)
    # What each row shows
    assert texts(browser, "#picker option") == names
    assert texts(browser, ".text") == [text or "no transcript" for text in first["text"]]
    assert texts(browser, ".speaker") == first["speaker"].tolist()
    heights = browser.evaluate("[...document.querySelectorAll('.share')].map(e => parseFloat(e.style.height) / 100)")
    assert heights == pytest.approx(first[[*PROBABILITIES]].to_numpy().ravel(), abs=1e-4)
    right = [label in true.split(";") for label, true in zip(first["pred_emotion"], first["true_emotion"], strict=True)]
    assert ["✓" in text for text in texts(browser, ".verdict")] == right
    (spoken, *_) = browser.evaluate("[...document.querySelectorAll('.bars')].map(e => e.getAttribute('aria-label'))")
    assert f"sad {first['p_sad'][0]:.0%}, raters {first['share_sad'][0]:.0%}" in spoken
    assert f"arousal {first['pred_arousal'][0]:.1f}" in texts(browser, ".affect")[0]
    # The charts
    lanes = browser.evaluate("[...document.querySelectorAll('.predicted')].map(e => +e.getAttribute('y'))")
    assert [y > min(lanes) for y in lanes] == [name != first["speaker"][0] for name in first["speaker"]]
    assert [text.split("predicted ")[1].split()[0] for text in texts(browser, "#timeline title")] == [
        *first["pred_emotion"]
    ]
    assert browser.evaluate("document.querySelectorAll('#arousal circle, #valence .dot.raters').length") == 2 * n
    assert texts(browser, "#timeline text")[0] == "0:00"  # its own start, not the session's
    assert "http" not in browser.evaluate("document.querySelector('meta[http-equiv=Content-Security-Policy]').content")
    # Filters and keys
    choose(browser, "verdict", "false")
    assert browser.evaluate(VISIBLE) == [i for i in range(n) if not right[i]]
    choose(browser, "verdict", "")
    emotion = first["true_emotion"][n - 1].split(";")[0]
    choose(browser, "emotion", str(EMOTIONS.index(emotion)))
    labels = (first["true_emotion"] + ";" + first["pred_emotion"]).str.split(";")
    assert browser.evaluate(VISIBLE) == [i for i in range(n) if emotion in labels[i]]
    choose(browser, "emotion", "")
    choose(browser, "search", "안 간다")
    assert browser.evaluate(VISIBLE) == [i for i in range(n) if "안 간다" in first["text"][i]]
    choose(browser, "search", "")
    for key, expected in (("ArrowDown", 1), ("End", n - 1), ("ArrowUp", n - 2), ("Home", 0)):
        press(browser, key)
        assert browser.evaluate(SELECTED) == expected
    # Playing: an utterance's own wav, the next one where that is wanted, silence where there is none
    click(browser, "#rows li:nth-child(2) .text")
    wait(browser, "!sound.paused")
    assert browser.evaluate("sound.src").endswith(f"/corpus/wav/{first['segment_id'][1]}.wav")
    wait(browser, "sound.paused && state.playing === -1")
    click(browser, "#through")
    click(browser, "#rows li:nth-child(2) .text")
    wait(browser, "state.playing === -1 && state.at === 3")
    click(browser, "#next-dialogue")
    assert browser.evaluate("$('picker').selectedOptions[0].text") == names[1]
    assert browser.evaluate(SELECTED) == 0
    assert not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    # A file that is gone
    press(browser, "End")
    press(browser, " ")
    wait(browser, "$('missing').checkVisibility()")
    assert f"../corpus/wav/{rows['segment_id'].iloc[15]}.wav" in texts(browser, "#missing")[0]


def test_the_summary_has_all_dialogues_the_one_shown_and_its_speakers(browser, page, rows):
    opened(browser, page)
    first = rows[rows["dialogue"] == rows["dialogue"][0]]
    right = sum(p in true.split(";") for p, true in zip(first["pred_emotion"], first["true_emotion"], strict=True))
    (everything, own, *speakers) = texts(browser, "#groups tbody tr")
    assert everything.startswith(f"All {rows['dialogue'].nunique()} dialogues{len(rows)}")
    assert own.startswith(f"{rows['dialogue'][0]}{len(first)}")
    assert own.endswith(f"{first['pred_valence'].mean():.2f}{right / len(first):.0%} ({right}/{len(first)})")
    assert [text[0] for text in speakers] == ["F", "M"]


def test_a_recording_plays_from_start_to_end_of_an_utterance_and_its_texts_run_nothing(browser, tmp_path):
    """Unlabelled, as the mean of several runs, one utterance without a time, names and texts that mean harm."""
    own = make_rows(sessions=(1,), dialogues=1, windows=4).iloc[:4].drop(columns=["scripted", "seen", "lookup"])
    own = own.loc[:, ~own.columns.str.startswith(("true_", "share_"))].assign(
        true_emotion=None, start=[0.0, 1.0, 1.5, 2.0], end=[0.5, 1.4, 1.9, 2.2], dialogue=EVIL, speaker=EVIL, text=EVIL
    )
    own = own.assign(**{f"{name}_sd": 0.01 for name in PROBABILITIES}, pred_arousal_sd=0.3, pred_valence_sd=0.2)
    soundfile.write(tmp_path / "my talk #1.wav", np.zeros(24_000), 8000)
    audio = dict.fromkeys(own["segment_id"], tmp_path / "my talk #1.wav")
    settings = {"title": EVIL, "role": "listener", "notes": [EVIL], "recording": True}
    write_dialogues_page(tmp_path / "dialogue.html", own, audio, **settings)
    opened(browser, tmp_path / "dialogue.html")
    for selector in ("h1", ".text", ".speaker"):
        assert texts(browser, selector)[0] == EVIL
    assert browser.evaluate("[window.pwned, document.images.length, document.scripts.length]") == [None, 0, 2]
    assert not browser.evaluate("$('verdict').checkVisibility() || $('pick').checkVisibility()")
    assert "± 0.3" in texts(browser, ".affect")[0]
    assert "listener" in texts(browser, "header")[0]
    click(browser, "#rows li:nth-child(2) .line")
    wait(browser, "!sound.paused && sound.currentTime > 0")
    assert browser.evaluate("sound.currentTime") >= 1.0
    wait(browser, "sound.paused")
    assert 1.4 <= browser.evaluate("sound.currentTime") < 1.9
    # Nothing is wider than the screen, and what is read out or touched has a name and a size
    for width, scheme in ((375, "dark"), (1920, "light")):
        opened(browser, tmp_path / "dialogue.html", width, scheme)
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        targets = "[...document.querySelectorAll('button, select')].filter(e => e.checkVisibility())"
        assert min(browser.evaluate(targets + ".map(e => e.offsetHeight)")) >= 24  # WCAG 2.2, target size
    # Without all times the utterances stand in their order
    write_dialogues_page(tmp_path / "order.html", own.assign(start=[0.0, None, 1, 2]), {}, title="a", role="speaker")
    opened(browser, tmp_path / "order.html")
    lefts = browser.evaluate("[...document.querySelectorAll('#timeline .predicted')].map(e => +e.getAttribute('x'))")
    assert lefts == sorted(set(lefts))


def test_a_long_dialogue_opens_in_the_compact_view(browser, tmp_path):
    rows = make_rows(sessions=(1,), dialogues=1, windows=320).iloc[:320]
    write_dialogues_page(tmp_path / "long.html", rows, {}, title="a", role="speaker")
    for width in (375, 768, 1280):
        opened(browser, tmp_path / "long.html", width)
        browser.evaluate("$('zoom').value = 3; draw()")
        assert browser.evaluate("[document.documentElement.scrollWidth, $('compact').checked]") == [width, True]
        assert browser.evaluate("document.querySelectorAll('.bars').length") == 0
    click(browser, "#compact")
    assert browser.evaluate("document.querySelectorAll('.bars').length") == 320


def test_the_page_is_in_the_language_of_the_browser_until_it_is_switched(browser, page):
    agent = browser.evaluate("navigator.userAgent")
    visible = "[document.documentElement.lang, ...['h1', '.chip'].map(e => document.querySelector(e).innerText)]"
    try:
        for language, expected in (("ko-KR", ["ko", "평가 대화"]), ("de", ["en", "Tested dialogues"])):
            browser.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
            opened(browser, page)
            *found, predicted = browser.evaluate(visible)
            assert found == expected
            assert any(name in predicted for name in EMOTIONS) == (found[0] == "en")
            assert browser.evaluate("document.title").startswith(found[1])
        click(browser, "#language")
        assert browser.evaluate(visible)[:2] == ["ko", "평가 대화"]
        opened(browser, page)
        assert browser.evaluate("document.documentElement.lang") == "ko"  # the switch is stored
    finally:
        browser.evaluate("localStorage.clear()")
        browser.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="en")


def test_every_label_has_a_korean_one():
    labels = {*EMOTIONS, *ROLES, *GROUPS}.union(*map(dict.values, (HEADINGS, BASELINES, CALIBRATED, GROUP_HEADINGS)))
    for label_of in GROUPS.values():
        found = label_of(make_rows())
        labels |= {*(found.cat.categories if hasattr(found, "cat") else found.dropna())}
    assert {label for label in labels if 'lang="ko"' not in say(label)} == set()
