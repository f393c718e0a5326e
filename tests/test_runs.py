import json
import re
from pathlib import Path

import pandas as pd
import pytest
from finished_runs import entry, make_run, write_and_read

from corpora.kemdy19 import FOLDS
from corpora.sessions import format_sessions
from reports.tables import write_report


def test_sessions_are_written_as_in_the_published_file():
    assert [format_sessions(fold) for fold in FOLDS] == ["1-4", "5-8", "9-12", "13-16", "17-20"]
    assert (format_sessions([9, 1, 8]), format_sessions([4])) == ("1,8,9", "4")


# Damaged runs


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:240])


def shorten(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))


def spoil(path: Path) -> None:
    windows = pd.read_csv(path, dtype=str)
    windows.loc[7, "p_sad"] = "nan"
    windows.to_csv(path, index=False)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("result.json", Path.unlink, "not found"),
        ("result.json", truncate, "not readable as JSON"),
        ("result.json", lambda path: edit(path, '"F1"', '"F"'), "KeyError('F1')"),
        ("result.json", lambda path: edit(path, '"ccc_arousal": ', '"ccc_arousal": 7'), "outside -1 to 1"),
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
def test_a_damaged_run_is_listed_and_the_others_are_reported(run_folder, finished_runs, tmp_path, name, damage, reason):
    damage(run_folder / name)
    whole = entry("3.6", "lam .5", ("speaker", FOLDS[3], 0), finished_runs["speaker", FOLDS[3], 0])
    table, text, page = write_and_read(
        tmp_path / "report", [entry("3.6", "lam .66", ("speaker", FOLDS[3], 0), run_folder), whole]
    )
    assert table["runs"].tolist() == [0, 1]
    (line,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert line.startswith("- speaker, lam .66, sessions 13-16, seed 0: ")
    assert name in line
    assert reason in line.replace("\\", "")
    assert page.count("<li>speaker, lam .66") == 1


# The corpus


def test_figures_of_another_corpus_say_so_on_every_file(tmp_path):
    warning = (
        "Not KEMDy19: made from data/sample, 461 utterances (speaker), 461 utterances (listener). Its figures say "
    )
    keys = [(role, FOLDS[3], 0) for role in ("speaker", "listener")]
    folders = [make_run(tmp_path / key[0], *key, total=461) for key in keys]
    entries = [entry("3.6", "lam .66", key, folder) for key, folder in zip(keys, folders, strict=True)]
    table, text, page = write_and_read(tmp_path / "report", entries)
    assert text.startswith(f"> **{warning}")
    assert table["corpus"].str.startswith(warning).all()
    assert page.partition("<body>")[2].strip().startswith(f'<p class="warning" role="alert">{warning}')
    assert f"\\caption{{{warning}" in (tmp_path / "report" / "3.6.tex").read_text("utf-8")

    # and stand beside no published ones
    assert table["F1_published"].isna().all()
    assert "In brackets" not in text
    assert not re.search("publ\\.|◇|published figures,", page)


@pytest.mark.parametrize(
    ("corpus", "published"),
    [
        (None, True),
        ({"corpus": "KEMDy19", "synthetic": False}, True),
        ({"corpus": "KEMDy19", "synthetic": True}, False),
        ({"corpus": "KEMDy20", "synthetic": False}, False),
    ],
)
def test_before_a_run_has_finished_the_corpus_says_whether_published_figures_are_its(corpus, published, tmp_path):
    if corpus:
        (tmp_path / "corpus.json").write_text(json.dumps(corpus))
    write_report(tmp_path, [entry("3.6", "lam .66", ("speaker", FOLDS[3], 0))], {"data_path": str(tmp_path)})
    assert pd.read_csv(tmp_path / "3.6.csv")["F1_published"].notna().tolist() == [published]


@pytest.mark.parametrize(
    ("total", "configured", "kemdy19"),
    [
        (10_279, {}, True),
        (10_285, {"SorL": "listener"}, True),
        (9_900, {}, True),
        (9_700, {}, False),
        (10_900, {}, False),
        (10_279, {"train_split": [1, 2, 3]}, False),
        (10_279, {"data": {"corpus": "KEMDy19", "synthetic": False}}, True),
        (10_279, {"data": {"corpus": "KEMDy19", "synthetic": True}}, False),
        (10_279, {"data": {"corpus": "KEMDy20", "synthetic": False}}, False),
        (10_279, {"train_split": list(range(1, 13)), "valid_split": [17, 18, 19, 20]}, True),
    ],
)
def test_only_a_corpus_of_kemdy19s_size_passes_for_it(run_folder, tmp_path, total, configured, kemdy19):
    stored = json.loads((run_folder / "configuration.json").read_text()) | {"data_path": "data/KEMDy19"} | configured
    stored["windows"] = {"train": total - 190, "valid": 100, "test": 90}
    (run_folder / "configuration.json").write_text(json.dumps(stored))
    report = tmp_path / "report"
    table, text, page = write_and_read(report, [entry("3.6", "lam .66", (stored["SorL"], FOLDS[3], 0), run_folder)])
    assert ["Not KEMDy19" not in str(place) for place in (table["corpus"][0], text, page)] == [kemdy19] * 3
    assert f"data/KEMDy19, {total:,} utterances" in table["corpus"][0]
    assert f"data/KEMDy19, {total:,} utterances" in page


def test_ids_of_no_known_corpus_do_not_pass_for_kemdy19(tmp_path):
    folder = make_run(tmp_path / "run", "speaker", FOLDS[3], 0, 10_279)
    wanted = [entry("3.6", "lam .66", ("speaker", FOLDS[3], 0), folder)]
    assert "Not KEMDy19" not in write_and_read(tmp_path / "report", wanted)[1]
    windows = pd.read_csv(folder / "predictions.csv")
    for row in (slice(0, 0), slice(None)):  # one id, all of them
        windows.loc[row, "segment_id"] = "S01_" + windows.loc[row, "segment_id"].str[-4:]
        windows.to_csv(folder / "predictions.csv", index=False)
        assert write_and_read(tmp_path / "report", wanted)[1].startswith(
            "> **Not KEMDy19: made from data/KEMDy19, 10,279"
        )
