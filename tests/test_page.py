import base64
import re
from collections import Counter
from urllib.parse import unquote

import pandas as pd
import pytest
from finished_runs import SCRIPT, entry, recompute_figures, write_and_read

from constants import EMOTIONS
from corpora.kemdy19 import FOLDS
from reports.plots import TEXT_INK
from reports.tables import write_report


def test_confusion_has_true_labels_in_rows(run_folder, tmp_path):
    windows = pd.read_csv(run_folder / "predictions.csv")
    windows[[f"p_{name}" for name in EMOTIONS]] = 0.0
    windows["emotion"], windows["p_happy"] = ["sad"] * 60 + ["happy"] * 30, 1.0
    windows.to_csv(run_folder / "predictions.csv", index=False)
    *_, page = write_and_read(tmp_path / "report", [entry("3.6", "lam .66", ("speaker", FOLDS[3], 0), run_folder)])
    (row,) = re.findall(r'<tr><th scope="row">sad</th>(.*?)</tr>', page)
    cells = [re.sub("<.*?>", " ", cell).split() for cell in row.split("</td>")[:-1]]
    assert cells[EMOTIONS.index("happy")] == ["100%", "60"]
    assert cells[EMOTIONS.index("sad")] == ["0%", "0"]


def test_ccc_is_written_into_the_scatter_plot(report, finished_runs):
    figures = recompute_figures(finished_runs["listener", FOLDS[3], 0])
    page = (report / "index.html").read_text("utf-8")
    for name in ("arousal", "valence"):
        (svg,) = re.findall(rf'aria-label="Predicted {name} against [^"]*listener.*?</svg>', page, re.DOTALL)
        assert f">CCC {figures[f'ccc_{name}']:.3f}</text>" in svg
        assert svg.count("<image") == 1  # the dots


def test_page_is_self_contained_and_the_same_again(report, entries, tmp_path):
    page = (report / "index.html").read_text("utf-8")
    addresses = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page))
    folders = {address for address in addresses if not address.startswith("data:")}
    assert {(report / unquote(address)).resolve() for address in folders} == {
        entry.folder.resolve() for entry in entries if entry.folder
    }
    ids = re.findall(r'\bid="(.+?)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#(.+?)[")]', page)
    assert references
    assert set(references) <= set(ids)
    assert TEXT_INK not in page
    assert page.count("currentColor") > 100
    write_report(tmp_path, entries, {"data_path": f"data/{SCRIPT}", "epochs": 3, "gpu_id": None, "compile": False})
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_names_from_files_are_text(report):
    page = (report / "index.html").read_text("utf-8")
    assert page.count("<script") == 1
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;|") >= 4  # settings, error, row, summary
    for name in ("3.6", "grid"):
        text = (report / f"{name}.md").read_text("utf-8")
        assert "\\<script\\>" in text
        assert not re.search(r"(?<!\\)<", text)


def test_results_come_first_and_settings_that_are_set_last(report):
    page = (report / "index.html").read_text("utf-8").partition("<body>")[2]
    places = [page.index(text) for text in ("8 of 9 runs", "<table>", "What the numbers mean</h2>", "<footer>")]
    assert places == sorted(places)
    for text in ("Settings of all runs", "<dt>epochs</dt>", "0123456789abcdef", "<dt>torch</dt>"):
        assert page.index(text) > places[-1]
    assert not re.search(r">[^<]*\b(None|False|True)\b", page.partition("<script>")[0])
    assert "gpu_id" not in page


def test_a_run_of_two_rows_counts_once_and_its_links_lead_to_every_seed(entries, tmp_path):
    shared = [entry._replace(run_id="one") for entry in entries[4:6]]
    *_, page = write_and_read(tmp_path / "report", shared)
    assert "<strong>1 of 1 run</strong> has finished" in page
    *_, page = write_and_read(tmp_path / "folds", entries[:4])
    cell = page[page.index('<td class="first runs" data-value="2">2: ') :].partition("</td>")[0]
    assert re.findall(r"<a href=.*?>(.*?)</a>", cell) == ["seed 0", "seed 1"]


# In a browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1920, 375])
def test_page_in_a_browser(report, browser, scheme, width):
    browser.events.clear()
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(report / "index.html")
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    # what it is drawn from is awaited
    picture = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    methods = Counter(event["method"] for event in browser.events)
    for bad in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed"):
        assert not methods[bad], [event for event in browser.events if event["method"] == bad]
    assert not methods["Page.javascriptDialogOpening"]
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [(report / "index.html").as_uri()]

    assert browser.evaluate("document.documentElement.scrollWidth") == width
    used = "document.querySelector('.table').getBoundingClientRect().width / innerWidth"
    assert browser.evaluate(used) > 0.9
    widest = "Math.max(...[...document.querySelectorAll('svg, p, h1, h2, figure, .scroll')]"
    assert browser.evaluate(f"{widest}.map(e => e.getBoundingClientRect().right))") <= width
    page, ink = (
        ("rgb(17, 17, 17)", "rgb(232, 232, 232)") if scheme == "dark" else ("rgb(255, 255, 255)", "rgb(26, 26, 26)")
    )
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == page
    assert browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == ink
    assert browser.evaluate("document.querySelectorAll('svg[role=img][aria-label]').length") == browser.evaluate(
        "document.querySelectorAll('svg').length"
    )


TABLE = "document.querySelectorAll('.table table')[1]"
COLUMN = f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[%d].textContent.trim())"


@pytest.mark.parametrize("width", [1920, 375])
def test_a_click_or_a_key_on_a_heading_sorts_the_table(report, browser, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.events.clear()
    browser.open(report / "index.html")
    table = pd.read_csv(report / "3.6.csv")
    rows, f1 = table["row"].tolist(), table["F1"]
    name = f"{TABLE}.querySelector('[aria-label=\"F1, ours\"]')"
    sorted_by = f"{TABLE}.querySelectorAll('[aria-sort=ascending], [aria-sort=descending]').length"
    state = f"[{name}.closest('th').ariaSort, {sorted_by}]"
    assert browser.evaluate(COLUMN % 1) == rows
    assert browser.evaluate(state) == ["none", 0]

    def click(element: str) -> None:
        browser.evaluate(f"{element}.scrollIntoView({{block: 'center', inline: 'center'}})")
        place = browser.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            at = dict(zip("xy", place, strict=True))
            browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    click(name)
    descending = f1.sort_values(ascending=False, kind="stable", na_position="last").index
    assert browser.evaluate(COLUMN % 1) == [rows[at] for at in descending]
    assert browser.evaluate(state) == ["descending", 1]
    for kind in ("keyDown", "keyUp"):  # the button has the focus
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    ascending = f1.sort_values(kind="stable", na_position="last").index
    assert browser.evaluate(COLUMN % 1) == [rows[at] for at in ascending]
    assert browser.evaluate(state) == ["ascending", 1]
    click(f"{TABLE}.querySelector('th button')")  # the role
    assert browser.evaluate(COLUMN % 0) == ["listener", "speaker", "speaker", "speaker"]
    assert browser.evaluate(state) == ["none", 1]
    assert not [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


def test_no_other_script_runs_in_the_page(report, browser):
    browser.open(report / "index.html")
    add = "const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; document.body.append(s);"
    assert browser.evaluate(add + "window.foreign") is None
    assert browser.evaluate("fetch('data:,x').then(() => 'sent', () => 'refused')", awaitPromise=True) == "refused"


def test_what_is_folded_is_printed(report, browser):
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.open(report / "index.html")
    seen = "[...document.querySelectorAll('details svg')].map(e => e.checkVisibility({contentVisibilityAuto: true}) && "
    seen += "e.getBoundingClientRect().height > 100)"
    assert set(browser.evaluate(seen)) == {False}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    browser.wait(lambda: browser.evaluate(seen)[0])  # Chromium lays out anew some frames later, on a busy machine
    assert set(browser.evaluate(seen)) == {True}
