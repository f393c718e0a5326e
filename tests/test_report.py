"""The report: numbers of its tables, published figures beside ours, Markdown, LaTeX, and the page in a browser."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import BATCH, figures_of, make_rows, make_run, write_run
from scipy.stats import entropy
from sklearn.metrics import f1_score

from constants import EMOTIONS
from corpora.corpus import KEMDY19
from corpora.utterances import SHARES
from metric import (
    HEADINGS,
    PROBABILITIES,
    WHOLE_FIGURES,
    batch_figures,
    bootstrap,
    class_figures,
    dialogue_sums,
    with_prediction,
)
from reports.calibration import calibrate
from reports.page import read_finished, write_report
from reports.plots import plot_spread
from reports.published import read_published
from reports.runs import read_runs, read_windows
from reports.tables import make_table
from sweeps.plan import TABLES, Table, find_planned, make_grid, plan_runs
from training.options import defaults, make_options
from utils import read_json, write_json

FOLDS = KEMDY19.folds
SCRIPT = "<script>alert(1)</script>|"
NO_CORPUS = Path("no corpus")


def entries_of(exp: Path, tables: dict[str, Table], seeds: int | None = None, **options) -> pd.DataFrame:
    """The entries of these tables for the speaker, with the runs in `exp`."""
    valid_split = options.pop("valid_split", None)
    shared = make_options(**{"epochs": 100, "batch_size": BATCH, "data_path": NO_CORPUS} | options)
    planned = plan_runs(tables, shared, roles=["speaker"], seeds=seeds, valid_split=valid_split)
    return find_planned(planned, read_runs(exp)).assign(error="not finished")


def section_of(entries: pd.DataFrame) -> dict:
    """The only table of `entries`, without files and plots."""
    return make_table(*read_finished(entries))


def write(folder: Path, entries: pd.DataFrame, **settings) -> Path:
    folder.mkdir()
    write_report(folder, entries, {"data_path": NO_CORPUS} | settings, defaults())
    return folder


GRID = {"lam": [("0.5", 0.5), ("0.6", 0.6)], "backbone": [("lstm", "lstm"), ("gru", "gru")]}
BASELINE = Table("Beyond", {"MATE": {}, "all": {"speakers": True}}, folds=FOLDS[:2], seeds=2, baselines={"all": "MATE"})


@pytest.fixture(scope="module")
def exp(tmp_path_factory) -> Path:
    """Two folds with two seeds of two rows, one of them with a hostile name; a grid that lacks one run; read only."""
    exp = tmp_path_factory.mktemp("exp")
    for fold, seed, (skill, options) in itertools.product(FOLDS[:2], (0, 1), ((1.5, {}), (2.5, {"speakers": True}))):
        make_run(exp / f"{fold[0]}{seed}{skill}", skill, test_split=[*fold], seed=seed, **options)
    for lam, backbone in ((0.5, "lstm"), (0.5, "gru"), (0.6, "lstm")):
        make_run(exp / f"{lam}{backbone}", 2 + lam, test_split=[*FOLDS[3]], lam=lam, backbone=backbone)
    return exp


@pytest.fixture(scope="module")
def entries(exp) -> pd.DataFrame:
    tables = {"3.2": TABLES["3.2"], "beyond": BASELINE, "grid": make_grid(GRID, [FOLDS[3]])}
    entries = entries_of(exp, tables, seeds=2)
    entries.loc[entries["row"] == "all", "row"] = SCRIPT
    entries.loc[entries["folder"].isna(), "error"] = f"stopped: {SCRIPT}"
    return entries[(entries["table"] != "grid") | (entries["seed"] == 0)]


@pytest.fixture(scope="module")
def report(entries, tmp_path_factory) -> Path:
    """The report of `entries`; read only."""
    return write(tmp_path_factory.mktemp("exp") / "report", entries, epochs=100, compile=False)


# Numbers


def test_rows_are_means_over_seeds_and_folds_of_what_the_predictions_give(report, entries):
    table = pd.read_csv(report / "3.2.csv")
    assert table["test"].tolist() == ["1-4", "5-8", "9-12", "13-16", "17-20", "mean of 2 of 5 folds"]
    assert table[["runs", "wanted"]].T.values.tolist() == [[2, 2, 0, 0, 0, 4], [2, 2, 2, 2, 2, 10]]
    assert table["windows"].fillna(0).tolist() == [96, 96, 0, 0, 0, 192]
    assert table["dialogues"].fillna(0).tolist() == [16, 16, 0, 0, 0, 32]
    by_run, sums, columns = {}, {"1-4": [], "5-8": []}, [*WHOLE_FIGURES, "F1", "majority_f1", "F1_happy"]
    for run in entries[(entries["table"] == "3.2") & entries["folder"].notna()].itertuples():
        rows = read_windows(run.folder)
        ordered = rows.loc[pd.read_csv(run.folder / "predictions.csv")["segment_id"]]
        by_batch = [batch_figures(some, 1, BATCH)[:, 2] for some in (ordered, with_prediction(ordered, "neutral"))]
        happy = class_figures(rows)["happy"]["f1-score"]
        by_run[run.test, run.seed] = [*figures_of(rows)[:5], *np.mean(by_batch, axis=1), happy]
        sums[run.test].append(dialogue_sums(rows))
    values = pd.DataFrame(by_run, index=columns).T
    by_fold, by_seed = values.groupby(level=0).mean(), values.groupby(level=1).mean()
    expected = [by_fold.loc["1-4"], by_fold.loc["5-8"], by_fold.mean()]
    np.testing.assert_allclose(table.loc[[0, 1, 5], columns], expected, atol=6e-4)
    for name in ("weighted_f1", "F1"):
        spreads = [values.loc["1-4"].std(), by_seed.std(), by_fold.std()]
        found = [table[f"{name}_sd_seeds"][0], *(table[f"{name}_{sd}"][5] for sd in ("sd_seeds", "sd_folds"))]
        assert found == pytest.approx([spread[name] for spread in spreads], abs=1e-3)
    bounds = bootstrap([np.stack(of_fold, axis=1) for of_fold in sums.values()])
    for name in WHOLE_FIGURES:
        found = table.loc[5, [f"{name}_low", f"{name}_high"]].tolist()
        assert found == pytest.approx(bounds.loc[name, ["low", "high"]].tolist(), abs=1e-5)


def test_a_mean_of_folds_weighs_folds_not_runs(exp):
    entries = entries_of(exp, {"3.2": Table("Two folds", {"default": {}}, folds=FOLDS[:2])}, seeds=2)
    entries.loc[entries.index[0], "folder"] = np.nan
    table = section_of(entries)["numbers"][""]
    assert table["runs"].tolist() == [1, 2, 3]
    assert table["F1"][2] == pytest.approx((table["F1"][0] + table["F1"][1]) / 2)


def test_figures_by_group_are_means_over_seeds_and_sums_of_counts_over_folds(report, entries):
    table = pd.read_csv(report / "beyond_groups.csv").set_index(["row", "groups", "group"])
    own = entries[(entries["table"] == "beyond") & (entries["row"] == "MATE")]
    stored = [read_json(folder / "result.json")["groups"]["dialogue type"]["improvised"] for folder in own["folder"]]
    found = table.loc["MATE", "dialogue type", "improvised"]
    assert found["n"] == sum(group["n"] for group in stored) / 2  # of two seeds
    for name in WHOLE_FIGURES:
        assert found[name] == pytest.approx(np.mean([group[name] for group in stored]), abs=1e-5)
    assert not {"session", "speaker"} & {*table.index.get_level_values("groups")}  # no two folds share one


def test_rows_carry_people_and_baselines_and_the_best_is_one_that_beats_both(tmp_path):
    exp, expected, prior = tmp_path / "exp", {}, np.full(7, 1 / 7)
    people = dict(zip(WHOLE_FIGURES, (0.61, 0.62, 0.63, 0.64, None), strict=True))
    for lam, skill in ((0.5, 0.2), (0.66, 2.0), (0.75, 2.4), (0.8, 2.2)):
        rows = make_rows([*FOLDS[3]], skill, seed=1)
        rows["lookup"] = rows["true_emotion"].str.partition(";")[0].where(rows.index % 3 == 0, "neutral")
        if lam == 0.5:
            rows["pred_arousal"] = rows["true_arousal"]  # the best, of a row that beats neither baseline
        folder = write_run(exp / f"{lam}", rows, test_split=[*FOLDS[3]], lam=lam)
        raters = {"mean": people, "classes": {"happy": 0.65}}
        stored = read_json(folder / "result.json") | {"raters": raters, "calibration": calibrate(rows, prior)}
        write_json(folder / "result.json", stored)
        single, (p, shares) = rows[rows["true_emotion"].isin(EMOTIONS)], (rows[[*n]] for n in (PROBABILITIES, SHARES))
        answers = {"": single["pred_emotion"], "majority_": ["neutral"] * len(single), "lookup_": single["lookup"]}
        scores = {
            f"{who}{kind}_f1": f1_score(single["true_emotion"], answer, average=kind)
            for (who, answer), kind in itertools.product(answers.items(), ("weighted", "macro"))
        }
        divergences = {
            "kl": entropy(shares, p, axis=1).mean(),
            "kl_constant": np.log(7) - entropy(shares, axis=1).mean(),
        }
        expected[f"lam {lam}".replace("0.", ".")] = scores | divergences
    text = write_report(tmp_path, entries_of(exp, {"3.6": TABLES["3.6"]}), {"data_path": NO_CORPUS}, defaults())
    table, expected = pd.read_csv(tmp_path / "3.6.csv").set_index("row"), pd.DataFrame(expected).T
    np.testing.assert_allclose(table[expected.columns], expected, atol=6e-5)
    assert table["raters_F1_happy"].tolist() == [0.65] * 4
    beats = expected["macro_f1"] > expected[["majority_macro_f1", "lookup_macro_f1"]].max(axis=1)
    assert beats.tolist() == [False, True, True, True]
    shown = section_of(entries_of(exp, {"3.6": TABLES["3.6"]}))["texts"]
    for name in WHOLE_FIGURES:
        is_best = [cell.startswith("**") for cell in shown["Metrics"][HEADINGS[name]][:4]]
        assert is_best == (table[name].round(3) == table.loc[beats, name].max().round(3)).where(beats, False).tolist()
    assert shown["Metrics"].loc[4, ["row", "macro F1", "CCC valence"]].tolist() == ["one rater", "0.620", ""]
    assert shown["F1 by emotion"].loc[4, ["row", "happy", "sad"]].tolist() == ["one rater", "0.650", ""]
    of_text = shown["Calibration"][["KL divergence", "baseline KL"]].astype(float)
    np.testing.assert_allclose(of_text, expected[["kl", "kl_constant"]], atol=6e-4)
    printed = [line.split() for line in text.splitlines() if "13-16" in line]
    numbers = table[[*WHOLE_FIGURES, "majority_macro_f1", "lookup_macro_f1"]].map("{:.3f}".format).to_numpy()
    assert [line[3:] for line in printed[:4]] == [["1", "1", *row] for row in numbers.tolist()]
    assert printed[4][:2] + printed[4][3:] == ["one", "rater", "0.610", "0.620", "0.630", "0.640"]


@pytest.mark.parametrize(("dialogues", "windows", "has_figures"), [(3, 9, True), (3, 7, False), (2, 20, False)])
def test_figures_of_few_windows_with_one_label_or_few_dialogues_are_left_out(dialogues, windows, has_figures, tmp_path):
    rows = make_rows([13], 2.0, 1, dialogues, windows)
    assert rows["true_emotion"].isin(EMOTIONS).sum() >= 20 or (dialogues, windows) == (3, 7)
    write_run(tmp_path / "exp" / "run", rows, test_split=[13])
    section = section_of(entries_of(tmp_path / "exp", {"grid": Table("", {"default": {}}, folds=((13,),))}))
    row = section["numbers"][""].iloc[0]
    assert row["windows"] == len(rows)
    assert row[["macro_f1", "ccc_arousal", "F1", "F1_happy", "majority_macro_f1"]].notna().eq(has_figures).all()


# Published figures


def test_every_published_row_is_there():
    table = read_published()
    counts = {"3.1": 3, "3.2": 10, "3.3": 2, "3.4": 2, "3.5": 8, "3.6": 8, "3.7": 2, "modality": 4, "KEMDy20": 2}
    assert table["table"].value_counts().to_dict() == counts | {"beyond": 1, "finetuned": 1}
    assert not table.duplicated(["table", "row", "role", "test"]).any()
    assert table[["protocol", "source"]].ne("").all(axis=None)


def test_published_figures_are_joined_on_table_row_role_and_fold(report, tmp_path):
    table = pd.read_csv(report / "3.2.csv")
    assert table["F1_published"][:5].tolist() == [0.674, 0.673, 0.704, 0.733, 0.702]
    assert table["F1_published"][5] == pytest.approx(0.6972)  # the mean of the folds
    assert table["F1_diff"][0] == pytest.approx(table["F1"][0] - 0.674, abs=1e-5)
    assert np.isnan(table["F1_diff"][5])  # three folds are missing
    for number, options in ((3, {}), (0, {"lam": 0.75})):
        make_run(tmp_path / "exp" / f"{number}", test_split=[*FOLDS[number]], **options)
    entries = {name: entries_of(tmp_path / "exp", {name: TABLES[name]}) for name in ("3.3", "3.7", "backbone")}
    tables = {name: section_of(of_table) for name, of_table in entries.items()}
    found = {name: section["numbers"][""]["F1_published"].tolist() for name, section in tables.items()}
    assert found["3.3"] == [0.733, 0.740]  # the default row has the figures of table 3.2
    assert found["3.7"][5] == 0.714  # published as a mean alone
    np.testing.assert_array_equal(found["backbone"], [0.733, np.nan])
    unfinished = section_of(entries["backbone"].assign(folder=np.nan))  # of which corpus is not known
    assert unfinished["numbers"][""]["F1_published"].isna().all()


@pytest.mark.parametrize(
    ("options", "data", "why"),
    [
        ({"epochs": 1}, {}, "--epochs"),
        ({"batch_size": 16, "hidden_size": 4}, {}, "--batch_size"),
        ({"ws": 1}, {}, "--ws"),
        ({"affect_loss": "ccc"}, {}, "--affect_loss"),
        ({"valid_split": [17, 18, 19, 20]}, {}, "--valid_split"),
        ({}, {"utterances": "9700"}, "9,700"),
        ({}, {"synthetic": "yes"}, "synthetic KEMDy19"),
        ({}, {"corpus": "KEMDy20"}, "KEMDy20"),
        ({}, {"text_model": "another/encoder"}, "another/encoder"),
        ({}, {"text_model": "a/kobert", "text_random": "yes"}, "a/kobert"),
        ({"seed": 0, "precision": "fp32", "lr_decay": 1e-3}, {"text_model": "a/KoBERT-v1"}, None),  # decide nothing
    ],
)
@pytest.mark.filterwarnings("ignore:--lr_decay")
def test_they_stand_beside_runs_like_the_published_ones_alone(options, data, why, tmp_path):
    make_run(tmp_path / "exp" / "run", data=data, test_split=[*FOLDS[3]], **options)
    section = section_of(entries_of(tmp_path / "exp", {"3.3": TABLES["3.3"]}, **options))
    table = section["numbers"][""]
    assert table["runs"].tolist() == [1, 0]
    assert table["F1_published"].notna().tolist() == [why is None] * 2
    assert [why in line for line in section["notes"]] == [True] * (why is not None)


def test_of_kemdy20_macro_f1_comes_first_and_what_others_reached_stands_with_its_protocol(tmp_path):
    data = {"corpus": "KEMDy20", "utterances": "13462", "train_sessions": "9-40"}
    make_run(tmp_path / "exp" / "run", data=data, test_split=[*range(1, 9)])
    section = section_of(entries_of(tmp_path / "exp", {"KEMDy20": Table("", {"default": {}}, (tuple(range(1, 9)),))}))
    assert section["figures"] == ("macro_f1", "weighted_f1", "accuracy", "ccc_arousal", "ccc_valence")
    row = read_published().query("table == 'KEMDy20'").iloc[0]
    assert all(part in section["notes"][1] for part in (row["row"], f"macro F1 {row['macro_f1']:.3f}", row["protocol"]))


# What is missing


def test_a_damaged_run_is_listed_with_its_file_and_the_others_are_reported(exp, tmp_path):
    shutil.copytree(exp, tmp_path / "exp")
    damaged = entries_of(tmp_path / "exp", {"3.2": TABLES["3.2"]})["folder"][0]
    (damaged / "predictions.csv").write_text("no predictions")
    folder = write(tmp_path / "report", entries_of(tmp_path / "exp", {"3.2": TABLES["3.2"]}))
    assert pd.read_csv(folder / "3.2.csv")["runs"].tolist() == [0, 1, 0, 0, 0, 1]
    lines = (folder / "index.html").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if "sessions 1-4, seed 0" in line]
    assert {part for part in (str(damaged), "predictions.csv") if part not in line} == set()


# Files


def test_every_file_has_the_figures_with_spread_interval_and_published_ones_and_marks_the_best(report):
    row = pd.read_csv(report / "3.2.csv").iloc[0]
    interval = ", ".join(f"{row[f'weighted_f1_{bound}']:.3f}".removeprefix("0") for bound in ("low", "high"))
    numbers = [f"{row['F1']:.3f}", f"{row['F1_sd_seeds']:.3f}".removeprefix("0"), interval, "0.674"]
    table = pd.read_csv(report / "beyond.csv")
    best = f"{table.loc[table['test'] == '1-4', 'weighted_f1'].max():.3f}"
    difference = f"{pd.read_csv(report / 'beyond_differences.csv')['value'][0]:+.3f}".replace("0.", ".")
    for suffix, bold in (("tex", "\\textbf{{{}}}"), ("html", "<b>{}</b>")):
        text = "".join(path.read_text("utf-8") for path in report.glob(f"*.{suffix}"))
        assert {part for part in [*numbers, bold.format(best), difference, "--epochs 100"] if part not in text} == set()
        assert "--compile" not in text  # a default
    assert "\\textbf" not in (report / "3.2.tex").read_text("utf-8")  # it has one row


def test_names_cannot_break_a_file(report):
    assert {path.read_bytes()[:3] for path in report.glob("*.csv")} == {"\ufeff".encode()}  # people open them
    page = (report / "index.html").read_text("utf-8")
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


# The page in a browser


def test_the_page_sorts_links_its_runs_and_asks_for_nothing(report, browser):
    browser.open_on_phone(report / "index.html")
    heads = "[...document.querySelectorAll('#beyond ~ .scroll th')]"
    heading = f"{heads}.find(head => head.innerText == '{HEADINGS['accuracy']}')"
    column = browser.evaluate(f"{heading}.cellIndex")
    rows = f"[...{heading}.closest('table').tBodies[0].rows]"
    for reverse in (True, False):
        browser.evaluate(f"{heading}.querySelector('button').click()")
        found = browser.evaluate(f"{rows}.map(row => parseFloat(row.cells[{column}].textContent))")
        assert found == sorted(found, reverse=reverse)
        assert browser.evaluate(f"{heading}.ariaSort") == ("descending" if reverse else "ascending")
    links = browser.evaluate("[...document.querySelectorAll('main a')].map(link => link.href)")
    assert links
    assert all(Path(link.removeprefix("file://")).is_dir() for link in links)


def test_the_page_shows_figures_by_the_number_of_training_sessions(tmp_path):
    values = pd.Series([3.0, 1.0, 5.0, 2.0], [4, 8, 4, 8])
    (axes,) = plot_spread({"F1": values}, "training sessions").axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[4, 4], [8, 1.5]])
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in band} == {(4, 3), (4, 5), (8, 1), (8, 2)}
    table = Table("Sizes", {"4": {"train_split": [1, 2, 3, 4]}, "8": {"train_split": [*range(1, 9)]}}, seeds=2)
    for n, seed in itertools.product((4, 8), (0, 1)):
        sessions = {"test_split": [*FOLDS[3]], "train_split": [*range(1, n + 1)]}
        make_run(tmp_path / "exp" / f"{n}{seed}", n / 4, seed=seed, **sessions)
    found = entries_of(tmp_path / "exp", {"data_size": table})
    assert found["folder"].notna().all()
    folder = write(tmp_path / "report", found)
    assert (folder / "index.html").read_text("utf-8").count("<figcaption>By training sessions, speaker") == 1
    assert [path.read_bytes()[:4] for path in folder.glob("*.pdf")] == [b"%PDF"]
