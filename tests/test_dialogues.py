"""The page of dialogues, in a browser: what it shows, plays and hides, and that nothing in it runs or is fetched."""

import base64
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import soundfile

from constants import EMOTIONS
from corpora.annotation import read_annotation
from corpora.registry import parse_id
from corpora.wavs import find_wavs
from reports.dialogues import Dialogue, Page, Shown, css_string, write_page, write_test_page

EVIL = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'> & \"%22\" 'x' \\ \u2028 안녕"


@pytest.fixture(scope="module")
def folder(finished, preprocessed, tmp_path_factory):
    """A tested run beside its corpus, both to be spoilt."""
    top = tmp_path_factory.mktemp("dialogues")
    shutil.copytree(preprocessed, top / "corpus")
    (top / "run").mkdir()
    shutil.copy(finished / "predictions.csv", top / "run")
    write_test_page(top / "run", [top / "corpus"], "speaker")
    return top


@pytest.fixture(scope="module")
def tested(folder):
    """The rows of predictions.csv by dialogue."""
    table = pd.read_csv(folder / "run" / "predictions.csv")
    return table.groupby([parse_id(segment).dialogue for segment in table["segment_id"]], sort=False)


@pytest.fixture
def page(browser, folder):
    """The page in the browser, at 1280 px in light colours."""
    return opened(browser, folder / "run" / "dialogues.html")


def opened(browser, path, width=1280, scheme="light"):
    browser.events.clear()
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=True)
    browser.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(path)
    if browser.evaluate("data.transcripts.length > 0"):
        loaded = (
            "getComputedStyle($('transcripts')).cssText !== undefined && document.querySelector('.text:not(.none)')"
        )
        wait(browser, f"{loaded} || !$('missing').hidden")
    return browser


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


def marked(browser):
    return browser.evaluate("[...$('rows').children].findIndex(e => e.getAttribute('aria-current') === 'true')")


def choose(browser, control, value):
    browser.evaluate(f"$('{control}').value = {json.dumps(value)}; $('{control}').dispatchEvent(new Event('change'))")


def visible(browser):
    return browser.evaluate("[...$('rows').children].flatMap((e, i) => e.checkVisibility() ? [i] : [])")


def first_dialogue(tested):
    name, rows = next(iter(tested))
    return name, rows.reset_index(drop=True)


# What it shows


def test_every_utterance_has_a_row_with_its_bars(page, folder, tested):
    _, rows = first_dialogue(tested)
    assert page.evaluate("[...$('picker').options].map(o => o.text)") == [name for name, _ in tested]
    assert page.evaluate("$('rows').children.length") == len(rows)
    table = pd.read_csv(folder / "corpus" / "df_speaker.csv").set_index("Segment ID").loc[rows["segment_id"]]
    assert page.evaluate("[...document.querySelectorAll('.text')].map(e => e.textContent)") == table["text"].tolist()
    assert page.evaluate("[...document.querySelectorAll('.speaker')].map(e => e.textContent)") == [
        parse_id(segment).speaker for segment in rows["segment_id"]
    ]
    heights = page.evaluate("[...document.querySelectorAll('.share')].map(e => parseFloat(e.style.height) / 100)")
    expected = rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy().ravel()
    assert heights == pytest.approx(expected, abs=1e-4)
    drawn = page.evaluate("[...document.querySelectorAll('.share')].map(e => e.getBoundingClientRect().height)")
    assert drawn[0] / drawn[1] == pytest.approx(heights[0] / heights[1], rel=0.1)
    spoken = page.evaluate("[...document.querySelectorAll('.bars')].map(e => e.getAttribute('aria-label'))")
    annotation = read_annotation(folder / "corpus" / "df_speaker.csv")
    shares = annotation.soft[annotation.ids.index(rows["segment_id"][0])]
    assert f"happy {rows['p_happy'][0]:.0%}, raters {shares[6]:.0%}" in spoken[0]


def test_true_labels_stand_beside_the_predicted_ones(page, tested):
    _, rows = first_dialogue(tested)
    likeliest = rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy().argmax(axis=1)
    right = [EMOTIONS[label] in true.split(";") for label, true in zip(likeliest, rows["emotion"], strict=True)]
    verdicts = page.evaluate("[...document.querySelectorAll('.verdict')].map(e => e.textContent)")
    for verdict, is_right, label, true in zip(verdicts, right, likeliest, rows["emotion"], strict=True):
        assert verdict.startswith(EMOTIONS[label])
        assert ("✓ right" in verdict, "✗ wrong" in verdict) == (is_right, not is_right)
        assert f"raters: {', '.join(true.split(';'))}" in verdict


def test_the_timeline_has_a_lane_for_each_emotion(page, tested):
    _, rows = first_dialogue(tested)
    likeliest = rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy().argmax(axis=1)
    tops = page.evaluate("[...document.querySelectorAll('#timeline .predicted')].map(e => +e.getAttribute('y'))")
    lane = page.evaluate("LANE")
    assert [int(top // lane) for top in tops] == likeliest.tolist()
    n_true = rows["emotion"].str.split(";").map(len).sum()
    assert page.evaluate("document.querySelectorAll('#timeline .true').length") == n_true
    assert page.evaluate("[...document.querySelectorAll('#timeline .lane')].map(e => e.textContent)") == [*EMOTIONS]


def test_arousal_and_valence_are_curves_with_the_truth(page, tested):
    _, rows = first_dialogue(tested)
    for name in ("arousal", "valence"):
        dots = f"[...document.querySelectorAll('#{name} circle')].map(e => +e.getAttribute('cy'))"
        values = [5 - (y - 6) / 80 * 4 for y in page.evaluate(dots)]
        assert values == pytest.approx(rows[f"{name}_pred"].tolist(), abs=2e-3)
        squares = page.evaluate(
            f"[...document.querySelectorAll('#{name} .dot.raters')].map(e => +e.getAttribute('y') + 3)"
        )
        assert [5 - (y - 6) / 80 * 4 for y in squares] == pytest.approx(rows[name].tolist(), abs=2e-3)


# What the user does


def test_a_click_plays_and_playing_moves_the_mark(page):
    click(page, "#rows li:nth-child(2) .text")
    wait(page, "!sound.paused && sound.currentTime > 0")
    assert marked(page) == 1
    assert page.evaluate("$('play').getAttribute('aria-label')") == "Stop"
    assert page.evaluate("sound.src.endsWith(`/${state.dialogue.utterances[1].id}.wav`)")
    position = "+document.querySelector('#timeline .head').getAttribute('x1')"
    before = page.evaluate(position)
    wait(page, f"{position} > {before} + 1")
    page.evaluate("$('through').checked = true; sound.currentTime = sound.duration - 0.05")
    wait(page, "[...$('rows').children][2].getAttribute('aria-current') === 'true' && !sound.paused")
    page.evaluate("$('through').checked = false; sound.currentTime = sound.duration - 0.05")
    wait(page, "sound.paused")
    assert marked(page) == 2
    click(page, "#timeline .hit:last-child")
    wait(page, "!sound.paused")
    assert marked(page) == page.evaluate("$('rows').children.length") - 1
    press(page, "Escape")
    assert page.evaluate("sound.paused")


def test_keys_walk_and_play(page):
    last = page.evaluate("$('rows').children.length") - 1
    expected = {"ArrowDown": 1, "ArrowRight": 2, "ArrowUp": 1, "ArrowLeft": 0, "End": last, "Home": 0}
    for key, place in expected.items():
        press(page, key)
        assert marked(page) == place, key
        assert page.evaluate("document.activeElement.closest('li').dataset.at") == str(place)
    press(page, "ArrowUp")
    assert marked(page) == 0
    page.evaluate("document.activeElement.blur()")
    press(page, " ")
    wait(page, "!sound.paused")
    press(page, " ")
    assert page.evaluate("sound.paused")


def test_filters_for_wrong_ones_and_for_an_emotion(page, tested):
    _, rows = first_dialogue(tested)
    likeliest = [EMOTIONS[k] for k in rows[[f"p_{emotion}" for emotion in EMOTIONS]].to_numpy().argmax(axis=1)]
    true = [labels.split(";") for labels in rows["emotion"]]
    wrong = [i for i, (label, labels) in enumerate(zip(likeliest, true, strict=True)) if label not in labels]
    choose(page, "verdict", "wrong")
    assert visible(page) == wrong
    assert page.evaluate("$('count').textContent") == f"{len(wrong)} of {len(rows)} utterances"
    choose(page, "verdict", "")
    emotion = true[-1][0]
    choose(page, "emotion", str(EMOTIONS.index(emotion)))
    fitting = [i for i in range(len(rows)) if emotion in (likeliest[i], *true[i])]
    assert visible(page) == fitting
    press(page, "End")
    assert marked(page) == fitting[-1]
    absent = next(e for e in EMOTIONS if e not in {*likeliest, *(label for labels in true for label in labels)})
    choose(page, "emotion", str(EMOTIONS.index(absent)))
    assert visible(page) == []
    assert page.evaluate("$('empty').checkVisibility()")


def test_the_picker_changes_the_dialogue(page, tested):
    names, sizes = zip(*((name, len(rows)) for name, rows in tested), strict=True)
    press(page, "ArrowDown")
    choose(page, "picker", "1")
    assert page.evaluate("$('rows').children.length") == sizes[1]
    assert marked(page) == 0
    assert page.evaluate("document.querySelector('.text').className") == "text"
    click(page, "#next-dialogue")
    assert page.evaluate("$('picker').selectedOptions[0].text") == names[2]


# What it does not


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1920])
def test_nothing_is_fetched_from_a_host_and_nothing_overflows(browser, folder, width, scheme):
    opened(browser, folder / "run" / "dialogues.html", width, scheme)
    click(browser, "#rows li:nth-child(1) .text")
    wait(browser, "!sound.paused")
    press(browser, "Escape")
    picture = browser.call("Page.captureScreenshot", format="png")["data"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    methods = Counter(event["method"] for event in browser.events)
    for bad in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
        assert not methods[bad], [event for event in browser.events if event["method"] == bad]
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert (
        browser.evaluate(
            "Math.max(...[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && "
            "!['TRANSCRIPTS', 'OPTION'].includes(e.tagName)).map(e => e.getBoundingClientRect().right))"
        )
        <= width
    )


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_names_for_those_who_do_not_see(browser, folder, scheme):
    opened(browser, folder / "run" / "dialogues.html", scheme=scheme)

    def colour(name):
        value = browser.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        return "#" + "".join(2 * c for c in value[1:]) if len(value) == 4 else value

    for text in ("ink", "faint", "alarm", "good"):
        for ground in ("page", "card"):
            assert contrast(colour(text), colour(ground)) >= 4.5, (text, ground)
    for shape in (*(f"e{label}" for label in range(7)), "mark"):
        assert contrast(colour(shape), colour("card")) >= 3, shape
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    for wanted in ("button", "combobox", "image", "checkbox", "region"):
        names = [name for role, name in roles if role == wanted]
        assert names, wanted
        assert all(names), wanted
    assert any(
        re.match(r"Play: Utterance 1, [FM], predicted \w+ \d+%, (right|wrong), raters \w+", name) for _, name in roles
    )
    targets = (
        "[...document.querySelectorAll('button, select')].filter(e => e.checkVisibility()).map(e => e.offsetHeight)"
    )
    assert min(browser.evaluate(targets)) >= 24  # WCAG 2.2, target size


def test_the_page_holds_no_word_of_the_corpus(folder, tested):
    page = (folder / "run" / "dialogues.html").read_text("utf-8")
    table = pd.read_csv(folder / "corpus" / "df_speaker.csv")
    assert not [text for text in table["text"].dropna() if text in page]
    assert page.count("<script") == 2
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "http" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


def test_what_is_not_there_is_said(browser, folder, tmp_path):
    for name in ("corpus", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / "corpus" / "transcripts_speaker.css").unlink()
    opened(browser, tmp_path / "run" / "dialogues.html")
    assert "The texts are not found at ../corpus/transcripts_speaker.css" in browser.evaluate(
        "$('missing').textContent"
    )
    assert browser.evaluate("document.querySelector('.text').textContent") == "no text"
    shutil.rmtree(tmp_path / "corpus" / "wav")
    click(browser, "#rows li:nth-child(1) .text")
    wait(browser, "$('missing').textContent.startsWith('The sound is not found at ../corpus/wav/')")
    assert browser.evaluate("$('missing').checkVisibility() && state.playing === -1")


def test_a_corpus_that_cannot_be_written_to_is_warned_of(folder, tmp_path):
    (tmp_path / "corpus").mkdir()
    shutil.copy(folder / "corpus" / "df_speaker.csv", tmp_path / "corpus")
    (tmp_path / "corpus" / "transcripts_speaker.css").mkdir()
    shutil.copytree(folder / "run", tmp_path / "run")
    with pytest.warns(
        UserWarning, match=r"transcripts_speaker\.css: cannot be written, so dialogues\.html shows no texts"
    ):
        write_test_page(tmp_path / "run", [tmp_path / "corpus"], "speaker")
    assert (tmp_path / "run" / "dialogues.html").stat().st_size > 10_000


# A recording of one's own


def records(n, **more):
    times = [{"start": 0.5 * k, "end": 0.5 * k + 0.4} for k in range(n)]
    shares = [0.02, 0.03, 0.05, 0.1, 0.1, 0.1, 0.6]
    return [Shown(shares, 3.2, 2.8, speaker="A", text=f"말 {k}", **times[k], **more) for k in range(n)]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A page of a recording with a spread between runs, and a transcript that means harm."""
    folder = tmp_path_factory.mktemp("own talk #1")
    soundfile.write(folder / "my talk #1.wav", [0.0] * 8000 * 3, 8000)
    utterances = records(5, spread={"emotion": [0.01] * 7, "arousal": 0.3, "valence": 0.2})
    utterances[1] = utterances[1]._replace(text=EVIL, speaker=EVIL)
    dialogue = Dialogue(EVIL, utterances, "my%20talk%20%231.wav")
    write_page(folder / "dialogue.html", Page(EVIL, "listener", [EVIL], [dialogue]))
    return folder / "dialogue.html"


def test_a_transcript_is_shown_as_text_and_runs_nothing(browser, own):
    opened(browser, own)
    assert browser.evaluate("document.querySelectorAll('.text')[1].textContent") == EVIL
    assert browser.evaluate("document.querySelectorAll('.speaker')[1].textContent") == EVIL
    assert browser.evaluate("document.querySelector('h1').textContent") == EVIL
    assert browser.evaluate("window.pwned") is None
    assert browser.evaluate("document.images.length") == 0
    assert browser.evaluate("document.scripts.length") == 2


def test_a_transcript_of_a_corpus_runs_nothing(browser, folder, tmp_path):
    for name in ("corpus", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    table = pd.read_csv(tmp_path / "corpus" / "df_speaker.csv", dtype=str, keep_default_na=False)
    evil = EVIL + '"; } body { display: none } /* \n'
    table["text"] = evil
    table.to_csv(tmp_path / "corpus" / "df_speaker.csv", index=False)
    write_test_page(tmp_path / "run", [tmp_path / "corpus"], "speaker")
    opened(browser, tmp_path / "run" / "dialogues.html")
    assert browser.evaluate("document.querySelector('.text').textContent") == evil
    assert browser.evaluate("window.pwned") is None
    assert browser.evaluate("getComputedStyle(document.body).display") == "block"
    assert css_string('a"b\\c%\n') == '"a%22b%5Cc%25%0A"'


def test_a_recording_plays_a_segment_and_stops_at_its_end(browser, own):
    opened(browser, own)
    assert browser.evaluate("!$('verdict-label').checkVisibility() && !$('pick').checkVisibility()")
    assert "The emotion of the listener is predicted, not of the one who speaks." in browser.evaluate(
        "document.body.innerText"
    )
    assert "± 0.3" in browser.evaluate("document.querySelector('.affect').textContent")
    click(browser, "#rows li:nth-child(3) .text")
    wait(browser, "!sound.paused")
    assert browser.evaluate("sound.currentTime") >= 1.0
    wait(browser, "sound.paused")
    assert 1.4 <= browser.evaluate("sound.currentTime") < 1.9
    assert marked(browser) == 2


def test_forty_dialogues_of_a_hundred_and_ten_utterances_do_not_lag(browser, tmp_path):
    truth = {"labels": [6], "shares": [0, 0, 0, 0, 0, 0.3, 0.7], "arousal": 3.0, "valence": 4.0}
    write_page(
        tmp_path / "dialogues.html",
        Page("many", "speaker", [], [Dialogue(f"d{k}", records(110, truth=truth)) for k in range(40)]),
    )
    opened(browser, tmp_path / "dialogues.html")
    assert browser.evaluate("$('rows').children.length") == 110
    assert browser.evaluate("document.querySelectorAll('*').length") < 8_000  # one dialogue at a time is drawn
    browser.evaluate("change(39); for (let k = 0; k < 20; k++) walk(1)")
    assert marked(browser) == 20


def test_a_recording_of_hours_is_drawn_in_a_time_that_grows_with_its_length(browser, tmp_path):
    write_page(tmp_path / "dialogue.html", Page("long", "speaker", [], [Dialogue("talk", records(1000), "talk.wav")]))
    opened(browser, tmp_path / "dialogue.html")
    reads = browser.evaluate(
        "(() => { let n = 0; const u = state.dialogue.utterances[0];"
        " Object.defineProperty(u, 'start', { get() { n++; return 0; } });"
        " show(0); state.playing = 0; for (let k = 0; k < 50; k++) follow(); stop(); return n; })()"
    )
    assert reads < 100  # and not for each utterance and frame anew
    assert browser.evaluate("getComputedStyle($('rows').children[500]).contentVisibility") == "auto"


def test_utterances_without_times_stand_in_their_order(browser, tmp_path):
    utterances = [Shown([0, 0, 0, 0, 0, 0, 1.0], 3, 3, text="말") for _ in range(3)]
    write_page(tmp_path / "dialogue.html", Page("order", "speaker", [], [Dialogue("a", utterances)]))
    opened(browser, tmp_path / "dialogue.html")
    lefts = browser.evaluate("[...document.querySelectorAll('#timeline .predicted')].map(e => +e.getAttribute('x'))")
    assert lefts == sorted(set(lefts))
    click(browser, "#rows li:nth-child(2) .text")
    assert marked(browser) == 1
    assert browser.evaluate("$('missing').hidden")


def test_paths_are_relative(folder):
    page = Path(folder / "run" / "dialogues.html").read_text("utf-8")
    assert "file:/" not in page
    assert str(folder) not in page
    ids = pd.read_csv(folder / "run" / "predictions.csv")["segment_id"]
    assert page.count("../corpus/wav/") == sum(segment in find_wavs(folder / "corpus")[0] for segment in ids) > 10
