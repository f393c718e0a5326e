import base64
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import finished_run

from constants import EMOTIONS
from corpora.kemdy19 import FOLDS
from metric import FIGURES
from reports import tables
from reports.tables import COLOURS, Entry, find_published, look, read_published, read_run, spell, write_report

BATCH = 16
SCRIPT = "<script>alert(1)</script>|"


def make_run(folder: Path, role: str, split: tuple[int, ...], seed: int, total: int = 461, **configured) -> Path:
    """An experiment folder of a finished run, on random arrays."""
    rng = np.random.default_rng([seed, *split, len(role)])
    n = 90
    emotion = np.eye(7, dtype=np.float32)[rng.integers(0, 6, n)]  # never happy
    emotion[rng.random(n) < 0.2, 5] = 1
    scores = np.exp(rng.normal(size=(n, 7)) + 1.5 * emotion)
    arousal, valence = rng.integers(10, 51, (2, n)) / 10
    arrays = {
        "emotion_pred": (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32),
        "emotion": emotion,
        "arousal": arousal,
        "arousal_pred": np.clip(arousal + rng.normal(size=n), 1, 5),
        "valence": valence,
        "valence_pred": np.clip(6 - valence + rng.normal(size=n), 1, 5),
    }
    facts = {
        "windows": {"train": total - n, "valid": 0, "test": n},
        "versions": {"python": "3.11.7", "torch": "2.11.0"},
        "commit": "0123456789abcdef",
        "device": "cpu (x86_64, 2 threads)",
    }
    finished_run(folder, role, split, [f"id{i}" for i in range(n)], arrays, BATCH, **facts | configured)
    history = {"epoch": [1, 2, 3], "lr": 1e-3, "train_loss": [1.5, 1.2, 1.1 - seed / 10]}
    history |= {"valid_loss": [1.6, 1.5, 1.4]} if seed else {}
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    return folder


def entry(
    table: str, row: str, role: str, split: tuple, seed: int = 0, folder: Path | None = None, error=None
) -> Entry:
    published = find_published(read_published(), table, row, role, split)
    return Entry(table, f"Title {table}", row, role, split, seed, folder, error, published)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[tuple, Path]:
    """Folders of runs by role, test split and seed; read only."""
    parent = tmp_path_factory.mktemp("runs")
    wanted = [*itertools.product(["speaker"], FOLDS[:2], [0, 1]), ("speaker", FOLDS[3], 0), ("listener", FOLDS[3], 0)]
    return {key: make_run(parent / str(number), *key) for number, key in enumerate(wanted)}


@pytest.fixture
def run(runs, tmp_path) -> Path:
    """A run's folder to damage."""
    return shutil.copytree(runs["speaker", FOLDS[3], 0], tmp_path / "run")


@pytest.fixture(scope="module")
def entries(runs) -> list[Entry]:
    """Two folds with two seeds, a table that lacks runs, and hostile names."""
    folds = [entry("3.2", "default", role, split, seed, folder) for (role, split, seed), folder in runs.items()][:4]
    speaker, listener = (runs[role, FOLDS[3], 0] for role in ("speaker", "listener"))
    return [
        *folds,
        entry("3.6", "lam .66", "listener", FOLDS[3], 0, listener),
        entry("3.6", "lam .66", "speaker", FOLDS[3], 0, speaker),
        entry("3.6", "lam .5", "speaker", FOLDS[3], 0, None, f"error: {SCRIPT}"),
        entry("grid", f"$x$ <img src=x onerror=alert(1)>{SCRIPT}", "speaker", FOLDS[3], 0, speaker),
    ]


@pytest.fixture(scope="module")
def report(entries, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, entries, {"data_path": f"data/{SCRIPT}", "epochs": 3, "gpu_id": None})
    return folder


def written(folder: Path, entries: list[Entry]) -> tuple[pd.DataFrame, str, str]:
    """CSV and Markdown of the only table of `entries`, and the page."""
    folder.mkdir(exist_ok=True)
    write_report(folder, entries, {})
    (name,) = {e.table for e in entries}
    table = pd.read_csv(folder / f"{name}.csv")
    return table, (folder / f"{name}.md").read_text("utf-8"), (folder / "index.html").read_text("utf-8")


def recomputed(folder: Path) -> dict[str, float]:
    """The figures of a run from its predictions alone, window by window."""
    windows = pd.read_csv(folder / "predictions.csv")
    batches, majority = [], []
    for start in range(0, len(windows), BATCH):
        batch = windows.iloc[start : start + BATCH]
        labels = [row.split(";") for row in batch["emotion"]]
        best = batch[[f"p_{name}" for name in EMOTIONS]].idxmax(axis=1).str[2:]
        for answers, sums in ((best, batches), (["neutral"] * len(batch), majority)):
            hits = [answer in true for answer, true in zip(answers, labels, strict=True)]
            precision = np.mean(hits)
            recall = np.mean([hit / len(true) for hit, true in zip(hits, labels, strict=True)])
            sums.append([precision, recall, 2 * precision * recall / (precision + recall + 1e-3)])
    figures = dict(zip(FIGURES, np.mean(batches, axis=0), strict=False))
    for name in ("arousal", "valence"):
        true, predicted = windows[name], windows[f"{name}_pred"]
        covariance = np.cov(true, predicted, ddof=0)
        distance = (true.mean() - predicted.mean()) ** 2
        figures[f"ccc_{name}"] = 2 * covariance[0, 1] / (np.trace(covariance) + distance)
    return figures | {"majority_f1": np.mean(majority, axis=0)[2]}


# What was published


def test_every_published_row_is_there():
    table = read_published()
    counts = {"3.1": 3, "3.2": 10, "3.3": 2, "3.4": 2, "3.5": 8, "3.6": 8, "3.7": 2, "modality": 4}
    assert Counter(table["table"]) == counts
    assert not table.duplicated(["table", "row", "role", "test_split"]).any()
    whole = table[table["role"] != ""]
    assert (whole["Precision"] >= whole["Recall"]).all()  # the paper's are exchanged
    harmonic = 2 * whole["Precision"] * whole["Recall"] / (whole["Precision"] + whole["Recall"])
    assert (harmonic - whole["F1"]).abs().max() < 0.003
    assert whole[[*FIGURES]].notna().all(axis=None)
    assert table["source"].notna().all()
    assert table[table["table"] == "modality"]["note"].str.contains("other way round").all()


@pytest.mark.parametrize(
    ("key", "figures"),
    [
        (("3.2", "default", "listener", (17, 18, 19, 20)), (0.710, 0.683, 0.695, 0.566, 0.866)),
        (("3.3", "bidirectional", "speaker", FOLDS[3]), (0.755, 0.726, 0.740, 0.784, 0.884)),
        (("3.4", "no concat", "listener", FOLDS[3]), (0.722, 0.692, 0.706, 0.689, 0.876)),
        (("3.5", "beta .99", "speaker", FOLDS[3]), (0.721, 0.691, 0.705, 0.612, 0.829)),
        (("3.6", "lam .75", "speaker", FOLDS[3]), (0.759, 0.731, 0.744, 0.791, 0.869)),
        (("3.7", "best", "listener", range(1, 21)), (0.694, 0.668, 0.680, 0.711, 0.833)),
        (("modality", "audio", "listener", FOLDS[3]), (0.528, 0.504, 0.515, 0.479, 0.547)),
    ],
)
def test_published_row_is_found(key, figures):
    assert find_published(read_published(), *key) == dict(zip(FIGURES, figures, strict=True))


def test_a_row_that_was_not_published_is_none():
    assert find_published(read_published(), "3.2", "default", "speaker", (1, 2, 3)) is None


def test_sessions_are_spelt_as_in_the_published_file():
    assert [spell(fold) for fold in FOLDS] == ["1-4", "5-8", "9-12", "13-16", "17-20"]
    assert (spell([9, 1, 8]), spell([4])) == ("1,8,9", "4")


# Tables


def test_figures_are_the_means_over_seeds_of_those_recomputed_from_the_predictions(report, runs):
    table = pd.read_csv(report / "3.2.csv")
    for position, split in enumerate(FOLDS[:2]):
        row = table.iloc[position]
        assert (row["role"], row["row"], row["test"], row["runs"]) == ("speaker", "default", spell(split), 2)
        seeds = pd.DataFrame([recomputed(runs["speaker", split, seed]) for seed in (0, 1)])
        published = find_published(read_published(), "3.2", "default", "speaker", split)
        assert row["majority_f1"] == pytest.approx(seeds["majority_f1"].mean(), abs=1e-4)
        for name in FIGURES:
            assert row[name] == pytest.approx(seeds[name].mean(), abs=6e-4)
            assert row[f"{name}_sd"] == pytest.approx(abs(seeds[name][0] - seeds[name][1]) / 2**0.5, abs=1e-3)
            assert row[f"{name}_published"] == published[name]
            assert row[f"{name}_diff"] == pytest.approx(row[name] - published[name], abs=1e-5)


def test_mean_of_folds_is_beside_the_published_mean(report, runs):
    row = pd.read_csv(report / "3.2.csv").iloc[2]
    assert (row["test"], row["folds"], row["runs"]) == ("mean of 2 folds", 2, 4)
    ours = pd.DataFrame([recomputed(folder) for folder in [*runs.values()][:4]])
    for name, published in {"F1": (0.674, 0.673), "ccc_valence": (0.845, 0.777)}.items():
        assert row[name] == pytest.approx(ours[name].mean(), abs=6e-4)
        assert row[f"{name}_sd"] == pytest.approx(ours[name].std(ddof=1), abs=1e-3)
        assert row[f"{name}_published"] == pytest.approx(np.mean(published))
        assert row[f"{name}_published_sd"] == pytest.approx(np.std(published, ddof=1), rel=1e-4)
        assert row[f"{name}_diff"] == pytest.approx(row[name] - np.mean(published), abs=1e-5)


def test_mean_of_folds_weighs_folds_not_runs(runs, tmp_path):
    found = [("speaker", FOLDS[0], 0), ("speaker", FOLDS[1], 0), ("speaker", FOLDS[1], 1)]
    table, *_ = written(tmp_path, [entry("3.2", "default", *key, runs[key]) for key in found])
    assert table["F1"][2] == pytest.approx((table["F1"][0] + table["F1"][1]) / 2, abs=1e-5)


def test_folds_that_lack_a_run_have_no_difference_to_the_published_mean(runs, tmp_path):
    folds = [entry("3.7", "best", "speaker", fold, 0, runs.get(("speaker", fold, 0)), "running") for fold in FOLDS]
    table, text, _ = written(tmp_path, folds)
    row = table.iloc[5]
    assert (row["test"], row["runs"], row["wanted"]) == ("mean of 3 of 5 folds", 3, 5)
    assert row["F1"] == pytest.approx(table["F1"][[0, 1, 3]].mean(), abs=1e-5)
    assert row["F1_published"] == 0.714
    assert table["F1_diff"].isna().all()
    assert text.count(": running") == 2
    whole = [e._replace(folder=e.folder or runs["speaker", FOLDS[0], 1]) for e in folds]
    table, *_ = written(tmp_path, whole)
    assert table["F1_diff"][5] == pytest.approx(table["F1"][5] - 0.714, abs=1e-5)


def test_markdown_is_compact(report):
    rows = [line.split("|")[1:-1] for line in (report / "3.2.md").read_text("utf-8").splitlines() if line[:1] == "|"]
    heading, _, *body = [[cell.strip() for cell in row] for row in rows]
    f1 = heading.index("F1")
    found = pd.read_csv(report / "3.2.csv").iloc[0]
    sd, diff = (f"{found[name]:.3f}".replace("0.", ".") for name in ("F1_sd", "F1_diff"))
    assert body[0][f1] == f"{found['F1']:.3f} ± {sd} (0.674, {diff if diff[0] == '-' else '+' + diff})"
    assert body[0][heading.index("runs")] == "2"
    assert body[2][heading.index("test")] == "mean of 2 folds"


def test_roles_come_in_order_and_a_missing_run_has_a_row(report):
    table = pd.read_csv(report / "3.6.csv")
    assert table[["role", "row"]].values.tolist() == [
        *(["speaker", "lam .66"], ["speaker", "lam .5"], ["listener", "lam .66"])
    ]
    assert table["runs"].tolist() == [1, 0, 1]
    assert table["F1"].isna().tolist() == [False, True, False]
    assert table["F1_published"][1] == 0.722
    text = (report / "3.6.md").read_text("utf-8")
    assert "- speaker, lam .5, sessions 13-16, seed 0: error: " in text
    assert re.search(r"\| lam .5 +\| 13-16 +\| 0 of 1 +\| - \(0.738\) ", text)


def test_nothing_finished(tmp_path):
    for error in ("not started", "running", None):
        table, text, page = written(
            tmp_path, [entry("3.2", "default", "speaker", fold, 0, None, error) for fold in FOLDS]
        )
        assert table["F1"].isna().all()
        assert table["F1_published"].iloc[5] == pytest.approx(0.6972)
        assert text.count(f"seed 0: {error or 'not started'}") == 5
        assert "Not KEMDy19" not in page
        assert "0 finished runs" in page
    write_report(tmp_path, [], {})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def shorten(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))


def spoil(path: Path) -> None:
    windows = pd.read_csv(path, dtype=str)
    windows.loc[7, "p_sad"] = "nan"
    windows.to_csv(path, index=False)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("result.json", Path.unlink, "not found"),
        ("result.json", truncate, "not readable as JSON"),
        ("result.json", lambda path: edit(path, '"F1"', '"F"'), "KeyError('F1')"),
        ("result.json", lambda path: edit(path, '"ccc_arousal": ', '"ccc_arousal": 7'), "beyond -1 to 1"),
        ("result.json", lambda path: edit(path, '"overall": {', '"overall": 3, "was": {'), "not a result of main.py"),
        ("predictions.csv", truncate, "finite numbers"),
        ("predictions.csv", shorten, "39 windows"),
        ("predictions.csv", lambda path: edit(path, "p_happy", "p_glad"), "has no column p_happy"),
        ("predictions.csv", lambda path: edit(path, ",neutral", ",bored"), "bored"),
        ("predictions.csv", spoil, "finite numbers"),
        ("predictions.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "not readable as CSV"),
        ("history.csv", Path.unlink, "not found"),
        ("history.csv", lambda path: path.write_text("epoch,train_loss\n"), "expected rows"),
        ("configuration.json", lambda path: edit(path, '"windows"', '"doors"'), "KeyError('windows')"),
        ("configuration.json", lambda path: edit(path, '"valid_split": null', '"valid_split": 3'), "not one of main"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_listed_and_the_others_are_reported(run, runs, tmp_path, name, damage, reason):
    damage(run / name)
    whole = entry("3.6", "lam .5", "speaker", FOLDS[3], 0, runs["speaker", FOLDS[3], 0])
    table, text, page = written(tmp_path / "report", [entry("3.6", "lam .66", "speaker", FOLDS[3], 0, run), whole])
    assert table["runs"].tolist() == [0, 1]
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert line.startswith("- speaker, lam .66, sessions 13-16, seed 0: ")
    assert name in line
    assert reason in line.replace("\\", "")
    assert page.count("<li>speaker, lam .66") == 1


# The corpus


def test_figures_of_another_corpus_say_so_on_every_file(report):
    warning = (
        "Not KEMDy19: made from data/sample, 461 utterances (speaker), 461 utterances (listener). Its figures say "
    )
    for name in ("3.2", "3.6", "grid"):
        assert (report / f"{name}.md").read_text("utf-8").startswith(f"> **{warning}")
        assert pd.read_csv(report / f"{name}.csv")["corpus"].str.startswith(warning).all()
    body = (report / "index.html").read_text("utf-8").partition("<body>")[2]
    assert body.strip().startswith(f'<p class="warning" role="alert">{warning}')


@pytest.mark.parametrize(
    ("total", "configured", "kemdy19"),
    [
        (10_279, {}, True),
        (10_285, {"SorL": "listener"}, True),
        (9_900, {}, True),
        (9_700, {}, False),
        (10_900, {}, False),
        (10_279, {"train_split": [1, 2, 3]}, False),
        (10_279, {"train_split": [*range(1, 13)], "valid_split": [17, 18, 19, 20]}, True),
    ],
)
def test_only_a_corpus_of_kemdy19s_size_passes_for_it(run, tmp_path, total, configured, kemdy19):
    stored = json.loads((run / "configuration.json").read_text()) | {"data_path": "data/KEMDy19"} | configured
    stored["windows"] = {"train": total - 190, "valid": 100, "test": 90}
    (run / "configuration.json").write_text(json.dumps(stored))
    report = tmp_path / "report"
    table, text, page = written(report, [entry("3.6", "lam .66", stored["SorL"], FOLDS[3], 0, run)])
    assert ["Not KEMDy19" not in str(place) for place in (table["corpus"][0], text, page)] == [kemdy19] * 3
    assert f"data/KEMDy19, {total:,} utterances" in table["corpus"][0]
    assert f"data/KEMDy19, {total:,} utterances" in page


# Plots and page


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_colours_are_seen_on_both_pages(page):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert all(contrast(colour, page) >= 3 for colour in COLOURS)


def test_rows_differ_in_more_than_colour():
    looks = [look(number) for number in range(len(COLOURS) * len(tables.MARKERS))]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)
    assert len({look["marker"] for look in looks[: len(COLOURS)]}) == len(COLOURS)


def test_dots_are_where_the_figures_are(runs):
    folds = tables.group([entry("3.2", "default", *key, folder) for key, folder in runs.items()][:4], "test_split")
    read = {folder: read_run(folder) for folder in runs.values()}
    axes = tables.plot_figures("F1", folds, read, ["a", "b"]).axes[0]
    ours = [sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    for dots, split in zip(ours, FOLDS, strict=False):
        seeds = [recomputed(runs["speaker", split, seed])["F1"] for seed in (0, 1)]
        np.testing.assert_allclose(dots, sorted(seeds), atol=6e-4)
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"] == [0.674, 0.673]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_a_line_a_run_of_each_loss(runs):
    read = [read_run(runs["speaker", FOLDS[0], seed]) for seed in (0, 1)]
    axes = tables.plot_losses({"x": read}, {"x": 0, "other": 1}).axes[0]
    drawn = [(line.get_linestyle(), list(line.get_ydata())) for line in axes.lines if len(line.get_xdata())]
    assert drawn == [("-", [1.5, 1.2, 1.1]), ("-", [1.5, 1.2, 1.0]), (":", [1.6, 1.5, 1.4])]


def test_f1_by_class_is_the_mean_over_the_runs_that_have_it(runs):
    read = [read_run(runs["speaker", FOLDS[0], seed]) for seed in (0, 1)]
    reports = [json.loads((runs["speaker", FOLDS[0], seed] / "result.json").read_text()) for seed in (0, 1)]
    read[0].classes.pop("fear")
    found = dict(zip(EMOTIONS, tables.plot_classes({"x": read}, {"x": 0}).axes[0].lines[0].get_xdata(), strict=True))
    by_class = [result["overall"]["classes"] for result in reports]
    assert found["sad"] == pytest.approx(np.mean([classes["sad"]["f1-score"] for classes in by_class]))
    assert found["fear"] == pytest.approx(by_class[1]["fear"]["f1-score"])


def test_confusion_has_true_labels_in_rows(run, tmp_path):
    windows = pd.read_csv(run / "predictions.csv")
    windows[[f"p_{name}" for name in EMOTIONS]] = 0.0
    windows["emotion"], windows["p_happy"] = ["sad"] * 60 + ["happy"] * 30, 1.0
    windows.to_csv(run / "predictions.csv", index=False)
    *_, page = written(tmp_path / "report", [entry("3.6", "lam .66", "speaker", FOLDS[3], 0, run)])
    (row,) = re.findall(r'<tr><th scope="row">sad</th>(.*?)</tr>', page)
    cells = [re.sub("<.*?>", " ", cell).split() for cell in row.split("</td>")[:-1]]
    assert cells[EMOTIONS.index("happy")] == ["100%", "60"]
    assert cells[EMOTIONS.index("sad")] == ["0%", "0"]


def test_ccc_is_written_into_the_scatter_plot(report, runs):
    figures = recomputed(runs["listener", FOLDS[3], 0])
    page = (report / "index.html").read_text("utf-8")
    for name in ("arousal", "valence"):
        (svg,) = re.findall(rf'aria-label="Predicted {name} against [^"]*listener.*?</svg>', page, re.DOTALL)
        assert f">CCC {figures[f'ccc_{name}']:.3f}</text>" in svg
        assert svg.count("<image") == 1  # the dots


def test_page_is_self_contained_and_the_same_again(report, entries, tmp_path):
    page = (report / "index.html").read_text("utf-8")
    assert set(re.findall(r'(?:src|href)="([^"#]{1,5})', page)) == {"data:"}
    ids = re.findall(r'\bid="(.+?)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:url\(|href=")#(.+?)[")]', page)
    assert references
    assert set(references) <= set(ids)
    assert tables.TEXT_INK not in page
    assert page.count("currentColor") > 100
    write_report(tmp_path, entries, {"data_path": f"data/{SCRIPT}", "epochs": 3, "gpu_id": None})
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_names_from_files_are_text(report):
    page = (report / "index.html").read_text("utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;|") >= 4  # settings, error, row, summary
    for name in ("3.6", "grid"):
        text = (report / f"{name}.md").read_text("utf-8")
        assert "\\<script\\>" in text
        assert not re.search(r"(?<!\\)<", text)


class Browser:
    """A page of headless Chromium, driven over the DevTools protocol."""

    def __init__(self, program: str, profile: Path) -> None:
        import websocket

        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([program, *flags, f"--user-data-dir={profile}", "about:blank"], **silent)
        self.events, self.numbers = [], itertools.count(1)
        try:
            port = self.wait(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                (target,) = [target for target in json.load(answer) if target["type"] == "page"]
            self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=20, suppress_origin=True)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    @staticmethod
    def wait(ready):
        for _ in range(200):
            try:
                if found := ready():
                    return found
            except (OSError, IndexError):
                pass
            time.sleep(0.1)
        raise TimeoutError

    def call(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        self.wait(
            lambda: self.evaluate(f"location.href == {json.dumps(path.as_uri())} && document.readyState") == "complete"
        )

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    for domain in ("Page", "Runtime", "Network", "Log"):
        browser.call(f"{domain}.enable")
    yield browser
    browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
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
    widest = "Math.max(...[...document.querySelectorAll('svg, p, h1, h2, figure, .scroll')]"
    assert browser.evaluate(f"{widest}.map(e => e.getBoundingClientRect().right))") <= width
    page, ink = (
        ("rgb(17, 17, 17)", "rgb(232, 232, 232)") if scheme == "dark" else ("rgb(255, 255, 255)", "rgb(26, 26, 26)")
    )
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == page
    assert browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == ink
    assert browser.evaluate("document.querySelectorAll('script').length") == 0
    assert browser.evaluate("document.querySelectorAll('svg[role=img][aria-label]').length") == browser.evaluate(
        "document.querySelectorAll('svg').length"
    )


def test_what_is_folded_is_printed(report, browser):
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    browser.open(report / "index.html")
    seen = "[...document.querySelectorAll('details svg')].map(e => e.checkVisibility({contentVisibilityAuto: true}) && "
    seen += "e.getBoundingClientRect().height > 100)"
    assert set(browser.evaluate(seen)) == {False}
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert set(browser.evaluate(seen)) == {True}
