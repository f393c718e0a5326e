"""record: which runs are the same, what a changed file does to resume, test and search, and how a run is loaded."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import argv_of, retest
from speech_encoders import make_encoder

import experiments
import main as program
from corpora.corpus import corpus_by_name
from corpora.utterances import read_utterances
from features.embeddings import load_embeddings, save_embeddings
from features.encoders import save_encoder_embeddings
from features.speech_encoder import load_speech_encoder
from reports.predictions import read_predictions
from training import record
from training.data_record import data_record
from training.options import make_options, names_of, parse_args
from training.record import Record, load_run, make_record, options_to_resume, options_to_test, run_id
from utils import InputError, lock_folder, read_json, write_json

DEFAULTS = vars(make_options())
DATA = {"table": "df_speaker.csv ab", "text_embeddings": "embedding_768.npy cd", "train_sessions": "5-20"}


def data_of(kind: str, corpus: Path) -> dict[str, str]:
    """The data of a tiny run of a kind."""
    return data_record(parse_args(argv_of(kind, corpus, Path("exp"))), read_utterances(corpus, "speaker"), [3])


# The run's id


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - {"given"}))
def test_the_id_depends_on_every_option_that_decides(name):
    other = {**DEFAULTS, name: "another value"}
    by_data = {"audio_model", "text_model", "init", "train_split"}
    decides = name in names_of("test", "model", "training") - by_data
    assert (run_id(other, DATA) != run_id(DEFAULTS, DATA)) is decides
    assert run_id({key: value for key, value in DEFAULTS.items() if key != name}, DATA) == run_id(DEFAULTS, DATA)


def test_the_id_depends_on_the_content_of_the_data_alone():
    ids = {run_id(DEFAULTS, DATA | {name: "other"}) for name in (*DATA, "audio", "speech_embeddings", "init_weights")}
    assert len(ids | {run_id(DEFAULTS, DATA)}) == len(DATA) + 4
    names = {"text_model": "/home/kobert", "corpus": "my corpus", "version": "1.3", "speech_model": "hubert"}
    assert run_id(DEFAULTS, DATA | names) == run_id(DEFAULTS, DATA)


def test_a_record_is_read_as_it_was_written_but_for_its_paths_which_are_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = make_options(data_path=Path("a"), test_split=[1, 2], lr=3e-4, patience=2, valid_split=[3], speakers=True)
    written = make_record(options, DATA, {"torch": "2.11"})
    written.write(tmp_path)
    content = read_json(tmp_path / "configuration.json")
    assert content.keys() == {"run_id", "options", "data", "environment"}
    assert content["options"].keys() == names_of("data", "test", "model", "training")
    assert content["run_id"] == Record.read(tmp_path).run_id == run_id(options, DATA)
    assert Record.read(tmp_path) == written
    where = {"data_path": tmp_path / "a"}
    assert vars(written.namespace()) | {"given": None} == vars(options) | where | {"given": None}


EARLIER = {"versions": {"torch": "2.0"}, "lam": 0.5}
BAD_OPTION = {"options": {"lam": 2}, "data": DATA, "environment": {}}


@pytest.mark.parametrize("content", [None, EARLIER, BAD_OPTION, {"options": {}, "data": {}}, {"options": []}])
def test_what_is_no_record_is_refused_with_its_file(tmp_path, content):
    if content is not None:
        write_json(tmp_path / "configuration.json", content)
    with pytest.raises(InputError, match=r"configuration\.json"):
        options_to_resume(tmp_path, make_options())


def test_a_record_that_was_edited_is_refused_but_for_its_paths(text_run, tmp_path):
    content, path = read_json(text_run / "configuration.json"), tmp_path / "configuration.json"
    write_json(path, content | {"options": content["options"] | {"data_path": "/elsewhere"}, "environment": {}})
    assert str(Record.read(tmp_path).namespace().data_path) == "/elsewhere"
    for part, edited in (("options", {"SorL": "listener"}), ("options", {"lr": 5.0}), ("data", {"table": "other 1"})):
        write_json(path, content | {part: content[part] | edited})
        with pytest.raises(InputError, match=r"configuration\.json"):
            load_run(tmp_path)


# The same data in another place


@pytest.mark.parametrize("kind", ["text", "audio", "speech"])
def test_data_that_are_copied_without_times_or_seen_from_elsewhere_are_the_same(kind, spoken, tmp_path, monkeypatch):
    before = data_of(kind, spoken)
    copied = shutil.copytree(spoken, tmp_path / "another name", copy_function=shutil.copyfile)
    for path in copied.rglob("*"):
        os.utime(path, (1, 1))
    (tmp_path / "link").symlink_to(copied)
    monkeypatch.chdir(tmp_path)
    for place in (copied, Path("another name"), Path("link")):
        assert data_of(kind, place) == before


def test_the_data_say_what_they_were_made_from(spoken):
    data = data_of("speech", spoken)
    text_model = read_json(spoken / "corpus.json")["text_models"]["embedding_768.npy"]
    assert (data["text_fingerprint"], data["text_random"]) == (text_model["fingerprint"], "yes")
    assert (data["corpus"], data["synthetic"], data["train_sessions"]) == ("KEMDy19", "yes", "3")
    assert (data["speech_model"], data["speech_shape"], data["text_shape"]) == ("hubert-group", [3, 16], [768])


# Exchanged data


def exchange(corpus: Path, what: str) -> None:
    """Exchange what a run is made from."""
    if what == "df_speaker.csv":
        table = (corpus / what).read_text("utf-8")
        (corpus / what).write_text(table.replace("neutral", "happy", 1), "utf-8")
    elif what == "embedding_768.npy":
        rows = load_embeddings(corpus / what, 768)
        save_embeddings(corpus / what, {segment: -vector for segment, vector in rows.items()})
    elif what == "wavs":
        first, second, *_ = sorted((corpus / "wav").rglob("*.wav"))
        shutil.copyfile(first, second)
    else:
        shutil.rmtree(corpus / "encoders")
        shutil.rmtree(corpus / "features")
        encoder = load_speech_encoder(str(make_encoder(corpus / "encoders", "hubert-group", seed=1)))
        save_encoder_embeddings(corpus, None, encoder)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("text", "df_speaker.csv"), ("text", "embedding_768.npy"), ("audio", "wavs"), ("speech", "speech embeddings")],
)
def test_exchanged_data_are_refused_on_resume_and_named_by_a_test(request, spoken, tmp_path, capsys, kind, what):
    trained = request.getfixturevalue(f"{kind}_run")
    folder = shutil.copytree(trained, tmp_path / "exp" / trained.name)
    for name in ("result.json", "loss_curve.png"):
        (folder / name).unlink()
    corpus = shutil.copytree(spoken, tmp_path / "corpus")
    exchange(corpus, what)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    argv = [str(folder), "--data_path", str(corpus), "--gpu_id", "cpu"]
    assert program.main(["--resume", *argv]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(folder) in error
    assert what in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert program.main(["--test_only", *argv]) == (2 if kind == "speech" else 0)  # the embeddings do not fit the model
    if kind == "speech":
        assert "hubert-group" in capsys.readouterr().err.splitlines()[-1]
    else:
        (tested,) = folder.glob("test_*")
        changed, unfinished, *_ = read_json(tested / "result.json")["warnings"]
        assert what in changed
        assert "epoch" in unfinished


# Resuming and testing with other options


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run of KEMDy19 that held out 1-2, without weights; its record alone."""
    folder = tmp_path / "exp" / "run"
    folder.mkdir(parents=True)
    options = make_options(data_path=tmp_path, test_split=[1, 2], audio_model="hubert", epochs=7)
    data = DATA | {"corpus": "KEMDy19", "version": "1", "synthetic": "no", "train_sessions": "3-20"}
    make_record(options, data | {"speech_model": "hubert"}, {}).write(folder)
    return folder


def test_a_run_is_resumed_with_its_own_options_and_those_of_the_call(run):
    called = {"data_path": Path("elsewhere"), "epochs": 7, "audio_model": "hubert", "gpu_id": "1", "report_to": "none"}
    options = vars(options_to_resume(run, make_options(**called)))
    assert {name: options[name] for name in called} == called
    assert options["test_split"] == [1, 2]
    assert options_to_resume(run, make_options(resume="run")).data_path == run.parent.parent


@pytest.mark.parametrize("given", [{"epochs": 8}, {"test_split": [1]}, {"speakers": True}, {"audio_model": "whisper"}])
def test_an_option_that_contradicts_the_run_is_refused(run, given):
    with pytest.raises(InputError, match="--" + "".join(given)):
        options_to_resume(run, make_options(**given))


@pytest.mark.parametrize(
    ("corpus", "given", "tested", "trained"),
    [
        ("KEMDy19", {}, [1, 2], [*range(3, 21)]),
        ("KEMDy19", {"test_split": [3], "SorL": "listener"}, [3], [*range(3, 21)]),
        ("KEMDy20", {}, [*range(1, 9)], []),
    ],
)
def test_a_test_takes_the_sessions_that_were_held_out(run, monkeypatch, corpus, given, tested, trained):
    stored = Record.read(run)
    options = stored.namespace()
    trained_run = record.TrainedRun(run, None, options, stored, [*range(3, 21)])
    monkeypatch.setattr(record, "corpus_of", lambda path: corpus_by_name(corpus))
    options, train_sessions = options_to_test(trained_run, make_options(**given, test_only="run"))
    assert (options.test_split, train_sessions) == (tested, trained)
    assert options.SorL == given.get("SorL", "speaker")
    with pytest.raises(InputError, match="--ws"):
        options_to_test(trained_run, make_options(ws=3, test_only="run"))


def test_a_test_warns_of_another_role_and_of_sessions_of_training(text_run, preprocessed):
    run = load_run(text_run)
    assert (run.options.test_split, run.options.valid_split, run.train_sessions) == ([1, 2], [3], [4, 5, 6])
    called = make_options(test_only=str(text_run), SorL="listener", test_split=[2, 4])
    options, train_sessions = options_to_test(run, called)
    data = data_record(options, read_utterances(preprocessed, "listener"), train_sessions)
    seen, role, *_ = record.warnings_of_test(run, options, data, train_sessions)
    assert "4" in seen
    assert "listener" in role


def test_a_model_of_the_first_fold_of_kemdy20_is_tested_on_another_corpus_with_a_warning(
    kemdy20_run, preprocessed, tmp_path
):
    stored = Record.read(kemdy20_run)
    assert (stored.data["corpus"], stored.data["train_sessions"]) == ("KEMDy20", "9-10")
    rows = read_predictions(kemdy20_run / "predictions.csv")
    assert rows["session"].unique().tolist() == stored.options["test_split"] == [*range(1, 9)]
    folder = shutil.copytree(kemdy20_run, tmp_path / "run")
    test = retest(folder, "--data_path", str(preprocessed), "--test_split", "5,6")
    assert set(read_predictions(test / "predictions.csv")["corpus"]) == {"KEMDy19"}
    assert Record.read(test).options["test_split"] == [5, 6]
    warnings = read_json(test / "result.json")["warnings"]
    assert any("KEMDy20" in warning and "KEMDy19" in warning for warning in warnings)


# Folders


def test_the_newest_unfinished_run_of_the_id_is_found(tmp_path):
    options = make_options(data_path=tmp_path, test_split=[1])
    for number, name in enumerate(("old", "new", "finished", "other", "damaged")):
        (tmp_path / name).mkdir()
        data = DATA | {"table": "other"} if name == "other" else DATA
        make_record(options, data, {}).write(tmp_path / name)
        os.utime(tmp_path / name / "configuration.json", (number, number))
    (tmp_path / "finished" / "result.json").touch()
    (tmp_path / "damaged" / "configuration.json").write_text("{")
    with lock_folder(tmp_path / "old", "training"), pytest.raises(InputError, match="old"):
        record.find_unfinished(tmp_path, run_id(options, DATA))
    assert record.find_unfinished(tmp_path, run_id(options, DATA)) == tmp_path / "new"
    assert record.find_unfinished(tmp_path / "none", run_id(options, DATA)) is None


def test_a_run_is_found_by_its_name_or_path(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for save_path, name in ((run.parent, "run"), (Path("exp"), "run"), (Path("none"), "exp/run"), (run, str(run))):
        assert record.find_run(save_path, name).resolve() == run
    for name in ("exp", "nowhere", "run/latest"):  # a folder that is no run's, and none
        with pytest.raises(InputError, match=name):
            record.find_run(Path("exp"), name)
    shutil.copytree(run, run.with_name("older"))
    os.utime(run.with_name("older") / "configuration.json", (1, 1))
    for name in ("latest", "exp/latest", str(run.parent / "latest")):
        assert record.find_run(Path("exp"), name).resolve() == run
    with pytest.raises(InputError, match="--init latest"):  # another run at each call
        experiments.plan(*experiments.parse(["run", "--grid", "init=latest"]))
    shutil.copytree(run.with_name("older"), run.with_name("latest"))  # a folder of this name is itself
    assert record.find_run(Path("exp"), "latest") == Path("exp/latest")
