import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_runs import entry, make_run, recompute_figures, write_and_read

from corpora.kemdy19 import FOLDS
from corpora.sessions import format_sessions
from metric import BATCH_FIGURES, FIGURES, HEADINGS, SINGLE_LABEL_FIGURES, WHOLE_FIGURES
from reports.formats import best_rows, escape_latex
from reports.intervals import mean_intervals, sums_of_runs
from reports.published import find_published, read_published
from reports.runs import Entry, read_run
from reports.tables import write_report
from utils import read_json

# What was published


def test_every_published_row_is_there():
    table = read_published()
    counts = {
        "3.1": 3,
        "3.2": 10,
        "3.3": 2,
        "3.4": 2,
        "3.5": 8,
        "3.6": 8,
        "3.7": 2,
        "modality": 4,
        "KEMDy20": 2,
        "beyond": 1,
    }
    assert Counter(table["table"]) == counts
    assert not table.duplicated(["table", "row", "role", "test_split"]).any()
    peers = table[table["table"].isin(["KEMDy20", "beyond"])]
    assert peers[list(SINGLE_LABEL_FIGURES)].notna().all(axis=None)
    assert table["protocol"].ne("").all()
    whole = table[(table["role"] != "") & ~table.index.isin(peers.index)]
    assert (whole["Precision"] >= whole["Recall"]).all()  # the paper's are exchanged
    harmonic = 2 * whole["Precision"] * whole["Recall"] / (whole["Precision"] + whole["Recall"])
    assert (harmonic - whole["F1"]).abs().max() < 0.003
    assert whole[list(FIGURES)].notna().all(axis=None)
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


# Tables


def test_figures_are_the_means_over_seeds_of_those_recomputed_from_the_predictions(report, finished_runs):
    table = pd.read_csv(report / "3.2.csv")
    for position, split in enumerate(FOLDS[:2]):
        row = table.iloc[position]
        assert (row["role"], row["row"], row["test"], row["runs"]) == ("speaker", "default", format_sessions(split), 2)
        seeds = pd.DataFrame([recompute_figures(finished_runs["speaker", split, seed]) for seed in (0, 1)])
        published = find_published(read_published(), "3.2", "default", "speaker", split)
        assert row["majority_f1"] == pytest.approx(seeds["majority_f1"].mean(), abs=1e-4)
        for name in FIGURES:
            assert row[name] == pytest.approx(seeds[name].mean(), abs=6e-4)
            assert row[f"{name}_sd"] == pytest.approx(abs(seeds[name][0] - seeds[name][1]) / 2**0.5, abs=1e-3)
            assert row[f"{name}_published"] == published[name]
            assert row[f"{name}_diff"] == pytest.approx(row[name] - published[name], abs=1e-5)


def test_mean_of_folds_is_beside_the_published_mean(report, finished_runs):
    row = pd.read_csv(report / "3.2.csv").iloc[2]
    assert (row["test"], row["folds"], row["runs"]) == ("mean of 2 folds", 2, 4)
    ours = pd.DataFrame([recompute_figures(folder) for folder in list(finished_runs.values())[:4]])
    for name, published in {"F1": (0.674, 0.673), "ccc_valence": (0.845, 0.777)}.items():
        assert row[name] == pytest.approx(ours[name].mean(), abs=6e-4)
        assert row[f"{name}_sd"] == pytest.approx(ours[name].std(ddof=1), abs=1e-3)
        assert row[f"{name}_published"] == pytest.approx(np.mean(published))
        assert row[f"{name}_published_sd"] == pytest.approx(np.std(published, ddof=1), rel=1e-4)
        assert row[f"{name}_diff"] == pytest.approx(row[name] - np.mean(published), abs=1e-5)


def test_a_row_says_how_many_windows_and_dialogues_it_is_of_and_how_far_it_may_vary(report, finished_runs):
    table = pd.read_csv(report / "3.2.csv")
    runs = {key: read_run(folder) for key, folder in finished_runs.items()}
    figures = {key: pd.Series(run.figures) for key, run in runs.items()}
    folds = [[runs["speaker", fold, seed] for seed in (0, 1)] for fold in FOLDS[:2]]
    single = [int((of_fold[0].arrays["emotion"].sum(axis=1) == 1).sum()) for of_fold in folds]
    assert table["windows"].tolist() == [90, 90, 180]
    assert table["single_label"].tolist() == [*single, sum(single)]
    assert table["dialogues"].tolist() == [6, 6, 12]
    sums = [sums_of_runs(of_fold) for of_fold in folds]
    for row, of_row in enumerate((sums[:1], sums[1:], sums)):
        bounds = mean_intervals(of_row)
        for name in WHOLE_FIGURES:
            found = table.loc[row, [f"{name}_low", f"{name}_high"]].tolist()
            assert found == pytest.approx(bounds.loc[name, ["low", "high"]].tolist(), abs=1e-5)
    for name in ("weighted_f1", "F1"):
        values = np.array([[figures["speaker", fold, seed][name] for seed in (0, 1)] for fold in FOLDS[:2]])
        mean = table.iloc[2]
        assert mean[f"{name}_sd_seeds"] == pytest.approx(values.mean(axis=0).std(ddof=1), abs=1e-5)
        assert mean[f"{name}_sd_folds"] == pytest.approx(values.mean(axis=1).std(ddof=1), abs=1e-5)
        assert table[f"{name}_sd_seeds"][0] == pytest.approx(values[0].std(ddof=1), abs=1e-5)


def test_whole_set_figures_come_first_everywhere_with_their_counts(report):
    table = pd.read_csv(report / "3.2.csv").iloc[2]
    interval = " to ".join(f"{table[f'weighted_f1_{bound}']:.3f}".removeprefix("0") for bound in ("low", "high"))
    text, page, latex = ((report / name).read_text("utf-8") for name in ("3.2.md", "index.html", "3.2.tex"))
    heading = [name.strip() for name in next(x for x in text.splitlines() if x.startswith("| role")).split("|")]
    shown = [HEADINGS[name] for name in (*WHOLE_FIGURES, *BATCH_FIGURES)]
    assert heading[5:-1] == ["windows", "dialogues", *shown, "majority F1"]
    assert f"\\[{interval}\\]" in text
    assert f"<small>{interval}</small>" in page
    assert f"{{[}}{interval}{{]}}" in latex
    counts = f"{table['windows']:.0f} ({table['single_label']:.0f})"
    assert f"{counts}<small>{table['dialogues']:.0f} dialogues</small>" in page
    assert counts in text
    assert counts in latex
    assert page.index("whole test set</th>") < page.index("as the paper counts (per batch)</th>")


LEE = "Lee et al. 2023: weighted F1 0.704, macro F1 0.664, accuracy 0.702; five folds of sessions, each with validation"


@pytest.mark.parametrize(
    ("folds", "validated", "role", "shown"),
    [
        (5, True, "speaker", True),
        (5, False, "speaker", False),
        (4, True, "speaker", False),
        (5, True, "listener", False),
    ],
)
def test_a_peers_figures_stand_beside_runs_of_the_same_protocol_alone(folds, validated, role, shown, tmp_path):
    entries = []
    for number, fold in enumerate(FOLDS[:folds]):
        valid = [*FOLDS[(number + 1) % 5]] if validated else None
        train = [s for s in range(1, 21) if s not in {*fold, *(valid or ())}]
        total = 10_279 if role == "speaker" else 10_285
        folder = make_run(tmp_path / f"{number}", role, fold, 0, total, valid_split=valid, train_split=train)
        entries.append(entry("beyond", "all", (role, fold, 0), folder))
    _, *texts = write_and_read(tmp_path / "report", entries)
    assert [LEE in text for text in texts] == [shown, shown]
    assert ["Lee et al. 2023: of another protocol than these runs" in text for text in texts] == [not shown] * 2


def test_mean_of_folds_weighs_folds_not_runs(finished_runs, tmp_path):
    found = [("speaker", FOLDS[0], 0), ("speaker", FOLDS[1], 0), ("speaker", FOLDS[1], 1)]
    table, *_ = write_and_read(tmp_path, [entry("3.2", "default", key, finished_runs[key]) for key in found])
    assert table["F1"][2] == pytest.approx((table["F1"][0] + table["F1"][1]) / 2, abs=1e-5)


def test_folds_that_lack_a_run_have_no_difference_to_the_published_mean(finished_runs, tmp_path):
    folds = [
        entry("3.7", "best", ("speaker", fold, 0), finished_runs.get(("speaker", fold, 0)), "running") for fold in FOLDS
    ]
    table, text, _ = write_and_read(tmp_path, folds)
    row = table.iloc[5]
    assert (row["test"], row["runs"], row["wanted"]) == ("mean of 3 of 5 folds", 3, 5)
    assert row["F1"] == pytest.approx(table["F1"][[0, 1, 3]].mean(), abs=1e-5)
    assert row["F1_published"] == 0.714
    assert table["F1_diff"].isna().all()
    assert text.count(": running") == 2
    whole = [e._replace(folder=e.folder or finished_runs["speaker", FOLDS[0], 1]) for e in folds]
    table, *_ = write_and_read(tmp_path, whole)
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
        ["speaker", "lam .66"],
        ["speaker", "lam .5"],
        ["speaker", "lam .75"],
        ["listener", "lam .66"],
    ]
    assert table["runs"].tolist() == [1, 0, 1, 1]
    assert table["F1"].isna().tolist() == [False, True, False, False]
    assert table["F1_published"][1] == 0.722
    text = (report / "3.6.md").read_text("utf-8")
    assert "- speaker, lam .5, sessions 13-16, seed 0: error: " in text
    assert re.search(r"\| lam .5 +\| 13-16 +\| 0 of 1 +\| - +\| - +\| - .*\| - \(0.738\) ", text)


def test_nothing_finished(tmp_path):
    for error in ("not started", "running", None):
        table, text, page = write_and_read(
            tmp_path, [entry("3.2", "default", ("speaker", fold, 0), None, error) for fold in FOLDS]
        )
        assert table["F1"].isna().all()
        assert table["F1_published"].iloc[5] == pytest.approx(0.6972)
        assert text.count(f"seed 0: {error or 'not started'}") == 5
        assert "Not KEMDy19" not in page
        assert "<strong>0 of 5 runs</strong> have finished" in page
        assert "<figure" not in page
    write_report(tmp_path, [], {})


PEER = "always neutral: weighted F1 0.805, macro F1 0.133, accuracy 0.867; any training: all 12828 utterances"
OTHER = "Lee et al. 2023: of another protocol than these runs (its test sessions are not known here)"


def make_run20(folder: Path, total: int = 13_462, **configured) -> Entry:
    """An entry of the table KEMDy20 with a finished run; `total` utterances are as many as the corpus has."""
    key = "speaker", tuple(range(1, 9)), 0
    make_run(folder, *key, total=total, train_split=list(range(9, 41)), **configured)
    predictions = pd.read_csv(folder / "predictions.csv")
    predictions["segment_id"] = [f"Sess01_script01_User001F_{place:03}" for place in range(len(predictions))]
    predictions.to_csv(folder / "predictions.csv", index=False)
    return entry("KEMDy20", "default", key, folder)


def test_macro_f1_comes_first_for_kemdy20_and_what_others_reached_stands_below(tmp_path):
    of_run = make_run20(tmp_path / "run")
    table, text, page = write_and_read(tmp_path / "report", [of_run])
    overall = read_json(of_run.folder / "result.json")["overall"]
    assert table["macro_f1"][0] == pytest.approx(overall["macro_f1"])
    heading = next(line for line in text.splitlines() if line.startswith("| role"))
    names = [name.strip() for name in heading.strip("|").split("|")]
    assert names[6:] == ["macro F1", "weighted F1", "accuracy", "CCC arousal", "CCC valence", "majority F1"]
    assert PEER in text
    assert PEER in page
    assert OTHER in text
    assert "0.408" not in text + page  # of another protocol
    assert page.index("macro F1") < page.index("weighted F1") < page.index(PEER)
    latex = (tmp_path / "report" / "KEMDy20.tex").read_text("utf-8")
    assert latex.index(PEER) < latex.index("macro F1 & weighted F1 & accuracy & CCC arousal")


@pytest.mark.parametrize(
    ("total", "configured", "shown"),
    [
        (13_462, {"data": {"corpus": "KEMDy20", "synthetic": False}}, True),
        (13_462, {"data": {"corpus": "KEMDy20", "synthetic": True}}, False),
        (13_462, {"data": {"corpus": "KEMDy19", "synthetic": False}}, False),
        (13_462, {"SorL": "listener"}, False),  # nobody is rated as listener there
        (480, {}, False),
    ],
)
def test_what_others_reached_on_kemdy20_stands_below_runs_on_the_whole_of_it_alone(tmp_path, total, configured, shown):
    _, *texts = write_and_read(tmp_path / "report", [make_run20(tmp_path / "run", total, **configured)])
    assert [PEER in text for text in texts] == [shown, shown]
    assert ["Not KEMDy19" in text for text in texts] == [not shown, not shown]


def test_published_figures_stand_beside_runs_on_their_own_corpus(finished_runs, tmp_path):
    key = "speaker", FOLDS[3], 0
    of_19, of_20 = entry("3.6", "lam .66", key, finished_runs[key]), make_run20(tmp_path / "run")
    write_report(tmp_path, [of_19, of_20], {})
    assert pd.read_csv(tmp_path / "3.6.csv")["F1_published"].notna().all()
    assert PEER in (tmp_path / "KEMDy20.md").read_text("utf-8")

    exchanged = [of_19._replace(folder=of_20.folder), of_20._replace(folder=of_19.folder)]
    write_report(tmp_path, exchanged, {})
    assert pd.read_csv(tmp_path / "3.6.csv")["F1_published"].isna().all()
    assert PEER not in (tmp_path / "KEMDy20.md").read_text("utf-8")


def test_the_best_of_a_role_and_test_split_is_marked_where_there_is_another(report, entries):
    table = pd.read_csv(report / "3.6.csv")
    best = table["F1"][:3].idxmax()
    assert [*best_rows(table)["F1"]] == [at == best for at in range(4)]  # the listener has a single row
    figure = f"{table['F1'][best]:.3f}"
    bold = {"3.6.md": f"**{figure}** (", "3.6.tex": f"\\textbf{{{figure}}} (", "index.html": f"★</span> {figure}</td>"}
    for name, text in bold.items():
        assert (report / name).read_text("utf-8").count(text) == 1
    assert not best_rows(pd.read_csv(report / "3.2.csv")).any(axis=None)  # folds are not compared with each other


def test_values_that_are_written_the_same_are_both_the_best(report):
    table = pd.read_csv(report / "3.6.csv")
    table["F1"] = [0.7001, 0.69, 0.6999, 0.6]
    assert [*best_rows(table)["F1"]] == [True, False, True, False]


def test_latex_is_a_booktabs_table_with_all_rows_and_takes_names_literally(report):
    text = (report / "3.2.tex").read_text("utf-8")
    head, rule, rest = text.partition("\\midrule\n")
    assert rule
    for command in ("\\begin{table}", "\\begin{tabular}{lllrrrrrrrrrrrr}", "\\toprule", "\\label{tab:3.2}"):
        assert command in head
    rows, _, end = rest.partition("\\bottomrule")
    rows = [line.removesuffix(" \\\\").split(" & ") for line in rows.splitlines()]
    table = pd.read_csv(report / "3.2.csv")
    sd, diff = (f"{table[name][0]:.3f}".replace("0.", ".") for name in ("F1_sd", "F1_diff"))
    sign = "$-$" if diff[0] == "-" else "+"
    assert len(rows) == len(table) == 3
    assert rows[0][:4] == ["speaker", "default", "1-4", "2"]
    assert rows[0][13] == f"{table['F1'][0]:.3f} $\\pm$ {sd} (0.674, {sign}{diff.removeprefix('-')})"
    assert end.strip().endswith("\\end{table}")

    text = (report / "grid.tex").read_text("utf-8")
    assert "\\$x\\$ \\textless{}img src=x onerror=alert(1)\\textgreater{}" in text
    assert escape_latex("50% of a_b & {x} ~^ \\ #1") == (
        r"50\% of a\_b \& \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{} \#1"
    )


def test_transcripts_stay_in_the_runs_folder(run_folder, tmp_path):
    windows = pd.read_csv(run_folder / "predictions.csv")
    windows.assign(text="비밀 words").to_csv(run_folder / "predictions.csv", index=False)
    table, *_ = write_and_read(tmp_path / "report", [entry("3.6", "lam .66", ("speaker", FOLDS[3], 0), run_folder)])
    assert table["runs"].tolist() == [1]
    for path in (tmp_path / "report").iterdir():
        assert "비밀" not in path.read_text("utf-8"), path.name
