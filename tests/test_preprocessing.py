import contextlib
import io
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, heed_permissions
from raw_corpus import CACHE, FILES, NAME, SOURCE, faults, repeat_row, run, spoil, table, write_wav

import preprocessing
from constants import ROLES
from corpora.annotation import read_annotation
from corpora.problems import OTHER_SPELLING, Problem
from corpora.registry import parse_id
from corpora.transcripts import clean_transcript
from features.embeddings import load_embeddings
from features.text import embed_sentences, load_text_model
from preprocessing import main, output_files
from utils import decode


def test_the_files_are_written_beside_the_raw_data(sample, preprocessed):
    made = {path.name for path in preprocessed.iterdir()} - {path.name for path in sample.iterdir()}
    made -= {"features", "transcripts_speaker.css", "transcripts_listener.css"}  # training makes them
    assert made == {*FILES, SOURCE, CACHE} == {*output_files(preprocessed, 768, ROLES), CACHE}
    wavs = [sorted(p.relative_to(root) for p in root.rglob("*.wav")) for root in (sample, preprocessed)]
    assert wavs[0] == wavs[1]
    assert wavs[0]


def test_embeddings_are_those_of_the_cleaned_transcripts(sample, preprocessed):
    vectors = load_embeddings(preprocessed / "embedding_768.npy", 768)
    txts = {path.name: path for path in (sample / "wav").rglob("*.txt")}
    assert vectors.keys() == txts.keys()
    tokenizer, model = load_text_model(str(sample / "kobert"), 768)
    for name in sorted(txts)[::7]:
        text = clean_transcript(txts[name].read_text(encoding="utf-8"))
        expected = embed_sentences([text], tokenizer, model, quiet=True)[0]
        np.testing.assert_allclose(vectors[name], expected, rtol=0, atol=1e-5)


def test_published_readers_find_the_tables(preprocessed):
    for role in ("speaker", "listener"):
        assert len(read_annotation(preprocessed / f"df_{role}.csv").ids) > 0


def test_summary_tells_what_was_found_and_how_often(corpus, preprocessed, capsys):
    spoil(corpus, "Session01_F_res.csv", 4, 10, "bored")
    spoil(corpus, "Session02_F_res.csv", 4, 11, "9")
    assert run(corpus) == 0
    out = capsys.readouterr().out
    n = len(list((corpus / "wav").rglob("*.txt")))
    assert f"{n} utterances, 6 sessions, 12 dialogues\nspeaker: " in out
    spelt = [table(folder, "problems.csv")["what"] == OTHER_SPELLING for folder in (preprocessed, corpus)]
    assert len(spelt[1]) == len(spelt[0]) + 2
    n_faults, n_spelt = (~spelt[1]).sum(), spelt[1].sum()
    said = f"faults, listed in problems.csv: {n_faults}, and {n_spelt} rows with a label in another spelling\n"
    assert out.endswith(said)


def test_the_encoder_runs_on_the_device_that_is_picked(corpus, monkeypatch):
    import torch

    monkeypatch.setattr("preprocessing.pick_device", lambda gpu_id: torch.device("meta"))
    with pytest.raises(RuntimeError, match="meta"):  # there is no other device to be had here
        run(corpus)


def test_the_faults_of_the_sample_alone_are_introduced_as_planted(corpus):
    def said() -> list[str]:
        both = io.StringIO()  # in the order in which a person reads them
        with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
            assert run(corpus, "--overwrite") == 0
        return [line for line in both.getvalue().splitlines() if "planted" in line or line.startswith("warning")]

    introduced, *warned = said()
    assert introduced == "the sample's faults are planted: the warnings below show how faults are reported"
    (corpus / "synthetic.json").unlink()
    assert said() == warned != []


def test_a_damaged_cache_is_a_fault(corpus, preprocessed, capsys):
    (corpus / CACHE).write_bytes(b"PK")
    (found,) = faults(corpus, preprocessed, capsys)
    assert (found.file, found.what, found.done) == (CACHE, "cache that is damaged", "all sentences are embedded anew")
    assert (corpus / CACHE).read_bytes() == (preprocessed / CACHE).read_bytes()


def test_existing_files_are_kept_unless_asked(corpus, capsys):
    (corpus / "df_speaker.csv").write_text("mine")
    assert run(corpus) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (corpus / "df_speaker.csv").read_text() == "mine"
    assert not (corpus / "annotation.csv").exists()
    assert run(corpus, "--overwrite") == 0
    assert (corpus / "df_speaker.csv").read_text().startswith("start,end,Segment ID")


@pytest.mark.parametrize("name", [*FILES, SOURCE])
def test_a_folder_in_a_files_place_is_named_before_the_work(corpus, capsys, name):
    (corpus / name).mkdir()
    before = sorted(corpus.iterdir())
    assert run(corpus, "--overwrite") == 2
    assert f"{name}: a folder" in capsys.readouterr().err
    assert sorted(corpus.iterdir()) == before


def test_what_a_killed_run_left_half_written_is_cleared_away(corpus):
    for name in (".embedding_768.cache.npz.ab12_xyz", ".df_speaker.csv.abcdefgh"):
        (corpus / name).write_bytes(b"half")
    (corpus / ".mine.settings").write_text("kept")
    assert run(corpus) == 0
    assert [path.name for path in corpus.iterdir() if path.name.startswith(".")] == [".mine.settings"]


def spoil_softly(corpus: Path, what: str) -> None:
    match what:
        case "vote":
            spoil(corpus, NAME, 4, 13, "")
        case "repeated":
            repeat_row(corpus, 4)
        case "table":
            (corpus / "annotation" / "Session02_M_res.csv").unlink()
        case "transcript":
            next((corpus / "wav").rglob("*.txt")).unlink()
        case "wav":
            write_wav(next((corpus / "wav").rglob("*.wav")), "cut short")


@pytest.fixture
def faultless(corpus, capsys) -> Path:
    """A raw corpus without any fault."""
    run(corpus)
    repeats = table(corpus, "problems.csv")
    for path in (corpus / "annotation").glob("*.csv"):
        seen, lines = set(), []
        for line in decode(path.read_bytes(), path).replace("disqust", "disgust").splitlines():
            segment = line.split(",")[9]
            if segment.startswith("Sess") and segment in seen:
                continue
            seen.add(segment)
            lines.append(line)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for segment in repeats["id"]:
        for path in (corpus / "wav").rglob(f"{segment}.txt"):
            path.write_text("그래\n", encoding="utf-8")
    whole = next((corpus / "wav").rglob("*.wav"))
    for segment in set(table(corpus, "annotation.csv")["Segment ID"]):
        parsed = parse_id(segment)
        folder = corpus / "wav" / f"Session{parsed.session:02d}" / parsed.dialogue
        if not (folder / f"{segment}.wav").exists():
            shutil.copy(whole, folder / f"{segment}.wav")
        if not (folder / f"{segment}.txt").exists():
            (folder / f"{segment}.txt").write_text("그래\n", encoding="utf-8")
    for name in (*FILES, SOURCE, CACHE):
        (corpus / name).unlink()
    capsys.readouterr()
    return corpus


def test_strict_passes_where_there_is_no_fault(faultless, capsys):
    assert run(faultless, "--strict") == 0
    assert "warning" not in capsys.readouterr().err
    assert table(faultless, "problems.csv").empty
    assert tuple(table(faultless, "problems.csv").columns) == Problem._fields


def test_strict_passes_a_label_in_another_spelling(faultless, capsys):
    spoil(
        faultless, NAME, 4, 13, " " + faultless.joinpath("annotation", NAME).read_text().splitlines()[4].split(",")[13]
    )
    assert run(faultless, "--strict") == 0
    captured = capsys.readouterr()
    assert "warning: label in another spelling: " in captured.err
    assert "faults, listed in problems.csv: 0, and 1 rows with a label in another spelling" in captured.out
    assert table(faultless, "problems.csv")["what"].tolist() == [OTHER_SPELLING]


@pytest.mark.parametrize("what", ["vote", "repeated", "table", "transcript", "wav"])
def test_strict_stops_at_what_would_be_warned_of_and_writes_nothing(faultless, capsys, what):
    spoil_softly(faultless, what)
    before = sorted(faultless.rglob("*"))
    assert run(faultless, "--strict") == 2
    *_, error = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert error.startswith("error: --strict: ")
    assert sorted(faultless.rglob("*")) == before
    assert run(faultless) == 0
    assert "warning: " in capsys.readouterr().err


def run_apart(corpus: Path, before: Callable[[], None], *options: str) -> subprocess.CompletedProcess:
    """Pre-process in a process of its own, which calls `before` first."""
    return subprocess.run(
        [sys.executable, preprocessing.__file__, "--data_path", corpus, "--text_model", corpus / "kobert", *options],
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.replace("\r", "\n").splitlines()[-1]


def test_folders_that_cannot_be_read_are_named(corpus):
    for folder in ("wav/Session02", "annotation", "kobert"):
        (corpus / folder).chmod(0)
        done = run_apart(corpus, heed_permissions)
        (corpus / folder).chmod(0o755)
        assert done.returncode == 2
        assert last_line(done).startswith("error: ")
        assert folder in last_line(done)
        assert "Permission denied" in last_line(done)


def test_folder_that_cannot_be_written_is_said_before_the_work(corpus):
    before = sorted(corpus.rglob("*"))
    corpus.chmod(0o555)
    done = run_apart(corpus, heed_permissions)
    corpus.chmod(0o755)
    assert done.returncode == 2
    assert last_line(done) == f"error: {corpus}: cannot be written to (Permission denied); choose another folder"
    assert "sentence embeddings" not in done.stderr
    assert sorted(corpus.rglob("*")) == before


def test_disk_that_fills_up_leaves_all_files_as_they_were(corpus):
    assert run(corpus) == 0
    before = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    spoil(corpus, NAME, 4, 11, "2.2")
    before[corpus / "annotation" / NAME] = (corpus / "annotation" / NAME).read_bytes()
    limit = (len(before[corpus / "embedding_768.npy"]) - 1000,) * 2
    done = run_apart(corpus, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), "--overwrite")
    assert done.returncode == 2
    assert last_line(done) == f"error: {corpus / 'embedding_768.npy'}: cannot be written (File too large)"
    assert {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()} == before


def rename_ids(corpus: Path) -> None:
    for row in (3, 5):
        spoil(corpus, NAME, row, 9, "Sess01_F001")


def replace_by_other_session(corpus: Path) -> None:
    shutil.copy(corpus / "annotation" / "Session02_F_res.csv", corpus / "annotation" / NAME)


def empty_tables(corpus: Path) -> None:
    for path in (corpus / "annotation").glob("*.csv"):
        path.write_bytes(b"")


def cut_table(corpus: Path) -> None:
    path = corpus / "annotation" / NAME
    path.write_bytes(path.read_bytes()[:-40])


def drop_header(corpus: Path) -> None:
    path = corpus / "annotation" / NAME
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(True)[1:]), encoding="utf-8")


def open_quote(corpus: Path) -> None:
    (corpus / "annotation" / NAME).write_text('"' + "a" * 200_000, encoding="utf-8")


def break_encoding(corpus: Path) -> None:
    path = corpus / "annotation" / NAME
    path.write_bytes(b"\xff\xff" + path.read_bytes())


FAULTS: dict[str, Callable[[Path], object]] = {
    "no annotation": lambda corpus: shutil.rmtree(corpus / "annotation"),
    "no transcripts": lambda corpus: shutil.rmtree(corpus / "wav"),
    "ids": rename_ids,
    "other session": replace_by_other_session,
    "no rows": empty_tables,
    "cut": cut_table,
    "no header": drop_header,
    "open quote": open_quote,
    "neither encoding": break_encoding,
    "text model": lambda corpus: (corpus / "kobert" / "config.json").unlink(),
}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no annotation", "annotation: no table such as Session01_F_res.csv"),
        ("no transcripts", "wav: no readable .txt"),
        (
            "ids",
            "Session01_F_res.csv, row 4: segment id 'Sess01_F001', expected one such as Sess01_script01_F001; 2 rows",
        ),
        ("other session", "Session01_F_res.csv, row 3: segment id 'Sess02_"),
        ("no rows", "annotation: its 12 tables hold no row"),
        ("cut", "Session01_F_res.csv, row "),
        ("no header", "Session01_F_res.csv: its first two rows hold an utterance"),
        ("open quote", "Session01_F_res.csv: not readable as a CSV table"),
        ("neither encoding", "Session01_F_res.csv: neither UTF-8 nor CP949"),
        ("text model", "kobert"),
    ],
)
def test_faults_end_in_one_line_and_write_nothing(corpus, capsys, what, message):
    FAULTS[what](corpus)
    before = sorted(corpus.rglob("*"))
    assert run(corpus) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert sorted(corpus.rglob("*")) == before


def test_help_imports_nothing_heavy():
    code = (
        "import sys, preprocessing\n"
        "try: preprocessing.main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *help_lines, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert any(line.startswith("  --text_model") for line in help_lines)


@pytest.mark.parametrize(
    "options", [["--batch_size", "0"], ["--batch_size", "-1"], ["--gpu_id", "x"], ["--text_dim", "0"]]
)
def test_impossible_options_are_refused(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(options)
    assert exit_.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_missing_folder_and_other_dimension(tmp_path, sample, capsys):
    assert run(tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert main(["--data_path", str(sample), "--text_model", str(sample / "kobert"), "--text_dim", "512"]) == 2
    assert "768 values, --text_dim is 512" in capsys.readouterr().err
