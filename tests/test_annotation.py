import numpy as np
import pandas as pd
import pytest

from corpora.annotation import load_annotation, read_annotation
from utils import InputError


def test_annotation_holds_soft_labels_and_majorities(preprocessed):
    annotation = read_annotation(preprocessed / "df_speaker.csv")
    table = pd.read_csv(preprocessed / "df_speaker.csv")
    assert annotation.ids == table["Segment ID"].tolist()
    np.testing.assert_array_equal(annotation.session, table["Session"])
    np.testing.assert_allclose(annotation.arousal, table["Arousal"], rtol=1e-6)
    np.testing.assert_allclose(annotation.valence, table["Valence"], rtol=1e-6)
    happy = (table[[f"Emotion.{i}" for i in range(1, 11)]] == "happy").sum(axis=1) / 10
    np.testing.assert_allclose(annotation.soft[:, 6], happy, rtol=1e-6)
    np.testing.assert_array_equal(annotation.majority[:, 6], table["Emotion"].str.contains("happy"))
    for dialogue, code in zip(table["dialogue"], annotation.dialogue, strict=True):
        assert annotation.dialogue[table["dialogue"].eq(dialogue).to_numpy().argmax()] == code


def test_published_tables_with_an_extra_index_column_are_read(preprocessed, tmp_path):
    table = pd.read_csv(preprocessed / "df_speaker.csv")
    table.to_csv(tmp_path / "df_speaker.csv")  # writes the column `Unnamed: 0`
    published, ours = read_annotation(tmp_path / "df_speaker.csv"), read_annotation(preprocessed / "df_speaker.csv")
    assert published.ids == ours.ids
    np.testing.assert_array_equal(published.soft, ours.soft)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Segment ID", "Sess01_script01_F1", "row 4: segment id 'Sess01_script01_F1'"),
        ("Emotion", "bored", "row 4 .*emotion 'bored'"),
        ("Emotion.3", "bored", "row 4 .*emotion 'bored'"),
        ("Arousal", "7", "row 4 .*arousal 7"),
        ("Valence", "nan", "row 4 .*valence nan"),
        ("Valence", "", "row 4 "),
    ],
)
def test_bad_cells_are_named_with_file_and_row(preprocessed, tmp_path, column, value, message):
    table = pd.read_csv(preprocessed / "df_speaker.csv", dtype=str, keep_default_na=False)
    table.loc[2, column] = value
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=rf"t\.csv, {message}"):
        read_annotation(tmp_path / "t.csv")


def test_missing_votes_leave_the_others_share(preprocessed, tmp_path):
    table = pd.read_csv(preprocessed / "df_speaker.csv", dtype=str, keep_default_na=False)
    votes = [f"Emotion.{i}" for i in range(1, 11)]
    table.loc[0, votes] = ["sad", "sad", "sad", "happy"] + [""] * 6
    table.to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_allclose(read_annotation(tmp_path / "t.csv").soft[0], [0, 0, 0.75, 0, 0, 0, 0.25])
    table.loc[0, votes] = ""
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=r"row 2 .*no rater's emotion"):
        read_annotation(tmp_path / "t.csv")


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", b"\xff\xfe\x00"], ids=["empty", "columns", "bytes"])
def test_other_files_are_no_annotation(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"t\.csv: "):
        read_annotation(tmp_path / "t.csv")


def test_rows_out_of_the_order_of_time_are_warned_of(preprocessed, tmp_path):
    table = pd.read_csv(preprocessed / "df_speaker.csv")
    table.sort_values("Emotion").to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(UserWarning, match=r"t\.csv: \d+ utterances such as Sess.* the order of time"):
        read_annotation(tmp_path / "t.csv")


def test_table_saved_in_cp949_is_read(preprocessed, tmp_path):
    table = pd.read_csv(preprocessed / "df_speaker.csv", dtype=str, keep_default_na=False)
    table.to_csv(tmp_path / "t.csv", index=False, encoding="cp949")
    assert read_annotation(tmp_path / "t.csv").ids == table["Segment ID"].tolist()


def test_id_that_occurs_twice_is_refused(preprocessed, tmp_path):
    table = pd.read_csv(preprocessed / "df_speaker.csv")
    pd.concat([table, table.iloc[:1]]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=f"row {len(table) + 2}: .*occurs twice"):
        read_annotation(tmp_path / "t.csv")


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_spreadsheets_other_separators_are_named(preprocessed, tmp_path, separator, name):
    pd.read_csv(preprocessed / "df_speaker.csv").to_csv(tmp_path / "t.csv", index=False, sep=separator)
    with pytest.raises(InputError, match=rf"t\.csv: its columns are separated by {name}, expected commas; save it"):
        read_annotation(tmp_path / "t.csv")


def test_empty_rows_at_the_end_are_left_out_and_said_and_others_are_named(preprocessed, tmp_path):
    lines = (preprocessed / "df_speaker.csv").read_text(encoding="utf-8").splitlines()
    empty = "," * lines[0].count(",")
    (tmp_path / "t.csv").write_text("\n".join([*lines, empty, empty]), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"t\.csv: 2 empty rows at its end, which are left out"):
        found = read_annotation(tmp_path / "t.csv")
    assert found.ids == read_annotation(preprocessed / "df_speaker.csv").ids
    (tmp_path / "t.csv").write_text("\n".join([*lines[:3], empty, *lines[3:]]), encoding="utf-8")
    with pytest.raises(InputError, match=r"t\.csv, row 4: segment id '': .* is it an empty row\?"):
        read_annotation(tmp_path / "t.csv")


def test_rows_with_more_cells_than_the_header_are_refused(preprocessed, tmp_path):
    header, *rows = (preprocessed / "df_speaker.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "t.csv").write_text("\n".join([header.removesuffix(",dialogue"), *rows]), encoding="utf-8")
    with pytest.raises(InputError, match=r"t\.csv: its rows have more cells than its header"):
        read_annotation(tmp_path / "t.csv")


def test_rows_of_the_other_role_are_named(preprocessed, tmp_path):
    listener = pd.read_csv(preprocessed / "df_listener.csv", dtype=str, keep_default_na=False)
    listener.to_csv(tmp_path / "df_speaker.csv", index=False)
    n = len(listener)
    message = f"role 'listener', expected 'speaker'; so it is in {n} of {n} rows: is it another role's table"
    with pytest.raises(InputError, match=rf"df_speaker\.csv, row 2 \(Sess01_.*\): {message}"):
        load_annotation(tmp_path, "speaker")
    listener.drop(columns="role").to_csv(tmp_path / "df_speaker.csv", index=False)  # such as it is, it may be right
    assert load_annotation(tmp_path, "speaker").ids == listener["Segment ID"].tolist()
