"""Runs that are trained on KEMDy19 and KEMDy20 together."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import content, only_run, signals_at
from speech_encoders import make_encoder

import experiments
import export
import main as program
import predict
from corpora.annotation import load_annotations
from corpora.registry import corpus_of, parse_id
from dataset import make_windows
from features.speech import embed_corpus
from features.utterances import load_utterances
from reports.pairs import dialogue_sums, windows_table
from reports.runs import describe_corpora as describe_reported
from reports.runs import read_run
from reports.summary import FoldOfRow, count_windows
from sweeps.command_line import parse_plan
from sweeps.data import speech_shape_of
from training.configuration import as_json, identity
from training.folders import options_to_resume
from training.options import parse_args
from training.provenance import describe_data
from utils import InputError, read_json, write_json

TINY = ("--modality", "text", "--hidden_size", "4", "--num_layers", "1", "--batch_size", "8", "--gpu_id", "cpu")
SPLITS = ("--test_split", "KEMDy19:1-2,KEMDy20:1-7", "--valid_split", "KEMDy20:8")
IMBALANCE = ("--sampler", "weighted", "--loss", "cbloss")
HELD_OUT = ["KEMDy19:1", "KEMDy19:2", *(f"KEMDy20:{number}" for number in range(1, 8))]
STEPS = 6  # of an epoch


@pytest.fixture(scope="session")
def corpora(preprocessed, preprocessed20):
    return [str(preprocessed), str(preprocessed20)]


def train(corpora, exp, *more):
    argv = ["--data_path", *corpora, "--save_path", str(exp), *TINY, *SPLITS, *IMBALANCE, "--epochs", "2", *more]
    return program.main(argv)


@pytest.fixture(scope="module")
def trained(corpora, tmp_path_factory):
    """A run on both; read only."""
    exp = tmp_path_factory.mktemp("both")
    assert train(corpora, exp) == 0
    return only_run(exp)


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to test again."""
    return shutil.copytree(trained, tmp_path / trained.name)


def test_again(folder, *argv):
    """The folder of a new test."""
    earlier = {*folder.glob("test_*")}
    assert program.main(["--test_only", str(folder), "--gpu_id", "cpu", *map(str, argv)]) == 0
    (found,) = {*folder.glob("test_*")} - earlier
    return found


test_again.__test__ = False


# Data


def test_windows_cross_no_corpus_and_dialogues_of_one_name_stay_apart(corpora):
    options, _ = parse_args(["--data_path", *corpora, "--modality", "text"])
    annotation = load_annotations(options.data_path, "speaker")
    names = [(corpus_of(segment).name, parse_id(segment).dialogue) for segment in annotation.ids]
    assert {("KEMDy19", "Sess01_script01"), ("KEMDy20", "Sess01_script01")} <= {*names}
    assert len({*annotation.dialogue.tolist()}) == len({*names})
    for target, window in enumerate(make_windows(annotation.dialogue, 8)):
        assert {names[utterance] for utterance in window if utterance >= 0} == {names[target]}
    number = {"KEMDy19": 0, "KEMDy20": 0}
    for segment, session in zip(annotation.ids, annotation.session.tolist(), strict=True):
        name = corpus_of(segment).name
        assert session == f"{name}:{parse_id(segment).session}"
        number[name] += 1
    assert number == {"KEMDy19": 60, "KEMDy20": 60}


@pytest.mark.filterwarnings("ignore:.* have no wav in")  # of the sample of KEMDy19
def test_each_utterance_has_the_features_of_its_own_corpus(corpora):
    def load(paths):
        argv = ["--data_path", *paths, "--sr", "4000", "--speakers"]
        options, _ = parse_args(argv)
        return load_utterances(options, load_annotations(options.data_path, "speaker"), quiet=True)

    parts, both = [load([path]) for path in corpora], load(corpora)
    assert both.annotation.ids == [segment for part in parts for segment in part.annotation.ids]
    assert torch.equal(both.text, torch.cat([part.text for part in parts]))
    spectrograms = [u.log_mels.spectrograms(torch.arange(len(u.log_mels))) for u in (*parts, both)]
    assert torch.equal(spectrograms[2], torch.cat(spectrograms[:2]))
    assert both.missing == {kind: [s for part in parts for s in part.missing[kind]] for kind in ("text", "wav")}
    assert both.missing["wav"]
    assert both.speaker.tolist() == [speaker for part in parts for speaker in part.speaker]
    for name in ("majority", "soft", "arousal", "valence"):
        values = [getattr(u.annotation, name) for u in (*parts, both)]
        np.testing.assert_array_equal(values[2], np.concatenate(values[:2]))
    assert both.annotation.text == [text for part in parts for text in part.annotation.text]


@pytest.mark.filterwarnings("ignore:.* have no wav in")
def test_speech_embeddings_are_those_of_each_corpus_and_of_one_encoder(corpora, tmp_path):
    paths = [Path(shutil.copytree(path, tmp_path / str(i))) for i, path in enumerate(corpora)]

    def load(*paths):
        options, _ = parse_args(["--data_path", *map(str, paths), "--modality", "audio", "--audio", "encoder"])
        return load_utterances(options, load_annotations(options.data_path, "speaker"))

    encoder = make_encoder(tmp_path, "hubert-group")
    for path in paths:  # the wavs of both lie in one folder
        said = embed_corpus(path, str(encoder), torch.device("cpu"), audio_path=tmp_path)
        assert ": 59 utterances" in said or ": 60 utterances" in said
    parts, both = [load(path) for path in paths], load(*paths)
    windows = [torch.arange(len(u.annotation.ids))[:, None] for u in (*parts, both)]
    vectors = [u.speech.of(w) for u, w in zip((*parts, both), windows, strict=True)]
    assert torch.equal(vectors[2], torch.cat(vectors[:2]))
    assert vectors[2].any(dim=(1, 2, 3)).sum() == 119  # one has no wav
    shutil.rmtree(paths[1] / "features")
    other = make_encoder(tmp_path / "other", "hubert-group", seed=1)
    embed_corpus(paths[1], str(other), torch.device("cpu"))
    refused = r"1: its speech embeddings are of .*hubert-group.* those of .*0 of .*; one mod"
    with pytest.raises(InputError, match=refused):
        load(*paths)
    plan = parse_plan(["run", "--data_path", *map(str, paths), "--grid", "audio=encoder", "--modality", "audio"])
    with pytest.raises(InputError, match=f"^grid audio=encoder: .*{refused}"):  # before any run starts
        speech_shape_of(plan.runs)
    shutil.rmtree(paths[1] / "features")
    with pytest.raises(
        InputError, match=r"1.*: holds no speech embeddings of hubert-group; .* --audio_model hubert-group"
    ):
        load(*paths)


def test_sentence_embeddings_of_two_encoders_are_refused(corpora, tmp_path):
    shutil.copytree(corpora[1], tmp_path / "other", ignore=shutil.ignore_patterns("wav", "kobert"))
    written = read_json(tmp_path / "other" / "corpus.json")
    written["text_model"] |= {"fingerprint": "0" * 64, "name": "another"}
    write_json(tmp_path / "other" / "corpus.json", written)
    options, _ = parse_args(["--data_path", corpora[0], str(tmp_path / "other"), "--modality", "text"])
    ids = load_annotations(options.data_path, "speaker").ids
    with pytest.raises(InputError, match=r"of another, .* those of .*corpus of .*kobert, .*; one model needs those of"):
        describe_data(options, ids)
    (tmp_path / "other" / "corpus.json").unlink()
    with pytest.warns(UserWarning, match="whether their sentence embeddings are of one text model is not known"):
        records = describe_data(options, ids)
    assert [record["corpus"] for record in records] == ["KEMDy19", "KEMDy20"]


# A run


def test_a_run_on_both_says_what_it_is_made_from(trained, corpora):
    stored = read_json(trained / "configuration.json")
    assert stored["data_path"] == corpora
    assert [(record["corpus"], record["synthetic"]) for record in stored["data"]] == [
        ("KEMDy19", True),
        ("KEMDy20", True),
    ]
    assert stored["test_split"] == HELD_OUT
    assert stored["train_split"] == ["KEMDy19:3", "KEMDy19:4", "KEMDy19:5", "KEMDy19:6", "KEMDy20:9", "KEMDy20:10"]
    assert stored["windows"] == {"train": 52, "valid": 6, "test": 62}
    annotation = load_annotations([*map(Path, corpora)], "speaker")
    rows = np.isin(annotation.session, stored["train_split"])
    assert [*stored["class_counts"].values()] == annotation.majority[rows].sum(axis=0).astype(int).tolist()
    assert trained.name.startswith("lstm_speaker_adam_8_testKEMDy19-1-2,KEMDy20-1-7_seed0_")


def test_a_run_on_one_corpus_is_stored_as_ever(finished, preprocessed):
    stored = read_json(finished / "configuration.json")
    assert stored["data_path"] == str(preprocessed)
    assert isinstance(stored["data"], dict)
    assert stored["test_split"] == [1, 2]
    assert "by_corpus" not in read_json(finished / "result.json")
    assert "corpus" not in pd.read_csv(finished / "predictions.csv")


def test_the_report_has_each_corpus_s_own_figures(folder, corpora, trained, capsys):
    """They are those of a test on that corpus alone, which takes the sessions that the run held out there."""
    result, table = read_json(folder / "result.json"), pd.read_csv(folder / "predictions.csv")
    assert table["corpus"].value_counts().to_dict() == {"KEMDy20": 42, "KEMDy19": 20}
    again = test_again(folder)
    out = capsys.readouterr().out
    assert "speaker, KEMDy19, sessions 1, 2 and KEMDy20, sessions 1, 2, 3, 4, 5, 6, 7: 62 windows" in out
    assert "trained on" not in out
    assert (again / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()
    lines = [line.split() for line in out.splitlines()]
    first = lines.index(["of", "each", "corpus", "KEMDy19", "KEMDy20"])
    assert lines[first + 1] == ["windows", "20", "42"]
    for name, corpus, windows in zip(("KEMDy19", "KEMDy20"), corpora, (20, 42), strict=True):
        alone = test_again(folder, "--data_path", corpus)
        out = capsys.readouterr().out
        assert "trained on KEMDy19, sessions 3-6 and KEMDy20, sessions 9-10" in out
        expected, own = read_json(alone / "result.json"), result["by_corpus"][name]
        assert own["overall"]["n"] == expected["overall"]["n"] == windows
        for figure in ("F1", "ccc_arousal", "ccc_valence"):
            assert own[figure] == expected[figure]
        assert own["overall"]["accuracy"] == expected["overall"]["accuracy"]
        stored = read_json(alone / "configuration.json")
        assert stored["trained_on"] == {"corpus": "KEMDy19 and KEMDy20", "sessions": stored["trained_on"]["sessions"]}
        assert stored["data"]["corpus"] == name
        numbers = [3, 4, 5, 6] if name == "KEMDy19" else [9, 10]
        assert stored["train_split"] == numbers


def test_dialogues_of_one_name_are_summed_apart(trained):
    ids = pd.read_csv(trained / "predictions.csv")["segment_id"].tolist()
    rng, n = np.random.default_rng(0), len(ids)
    arrays = {name: rng.random(n) for name in ("arousal", "arousal_pred", "valence", "valence_pred")}
    arrays |= {name: rng.random((n, 7)) for name in ("emotion", "emotion_pred")}
    sums = dialogue_sums(windows_table(ids, arrays))
    assert len(sums) == len({(corpus_of(segment), parse_id(segment).dialogue) for segment in ids})
    assert len(sums) > len({parse_id(segment).dialogue for segment in ids})
    result = read_json(trained / "result.json")
    assert result["against_majority"]["dialogues"] == result["parts"]["whole"]["dialogues"] == len(sums)


def test_the_page_of_dialogues_has_both_corpora_s(trained, corpora):
    page = (trained / "dialogues.html").read_text("utf-8")
    for name in ("KEMDy19 Sess01_script01", "KEMDy20 Sess01_script01"):
        assert f'"name":"{name}"' in page
    assert page.count("transcripts_speaker.css") == 2
    for corpus in corpora:
        assert (Path(corpus) / "transcripts_speaker.css").is_file()


def test_a_test_says_which_of_its_sessions_were_trained_on(folder, corpora, capsys):
    test_again(folder, "--data_path", corpora[1], "--test_split", "7-9")
    assert "the model was trained on sessions [9], which are tested here" in capsys.readouterr().err
    test_again(folder, "--test_split", "KEMDy19:3,KEMDy20:3")
    captured = capsys.readouterr()
    assert "the model was trained on sessions [KEMDy19:3], which are tested here" in captured.err
    assert "speaker, KEMDy19, sessions 3 and KEMDy20, sessions 3: 16 windows" in captured.out


def test_a_model_of_one_corpus_is_tested_on_both(finished, corpora, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / finished.name)
    found = test_again(folder, "--data_path", *corpora, "--test_split", "KEMDy19:2,KEMDy20:1")
    captured = capsys.readouterr()
    assert "trained on KEMDy19, sessions 3-6" in captured.out
    assert "the model was trained on sessions" not in captured.err
    assert "is tested on KEMDy19 (sample, seed 0, SYNTHETIC) and KEMDy20 (sample, seed 0, SYNTHETIC)" in captured.err
    assert read_json(found / "result.json")["by_corpus"].keys() == {"KEMDy19", "KEMDy20"}


# A run that goes on


def test_a_stopped_run_goes_on_to_the_same_result(corpora, trained, tmp_path, monkeypatch, capsys):
    with signals_at(STEPS + 2, signal.SIGTERM):
        assert train(corpora, tmp_path) == 128 + signal.SIGTERM
    folder = only_run(tmp_path)
    swapped = ["--data_path", *corpora[::-1]]
    assert program.main(["--resume", str(folder), *swapped]) == 2
    assert "other data, the corpora (KEMDy19 and KEMDy20; now KEMDy20 and KEMDy19)" in capsys.readouterr().err
    monkeypatch.chdir(corpora[0])
    assert train([".", corpora[1]], tmp_path, "--resume", "auto") == 0  # its path spelt otherwise
    assert f"resuming {folder}" in capsys.readouterr().out
    assert content(only_run(tmp_path)) == content(trained)


def test_a_stopped_run_goes_on_by_its_name_alone(corpora, trained, tmp_path):
    with signals_at(STEPS + 2, signal.SIGTERM):
        assert train(corpora, tmp_path) == 128 + signal.SIGTERM
    assert program.main(["--resume", str(only_run(tmp_path))]) == 0
    assert content(only_run(tmp_path)) == content(trained)


def test_runs_on_both_and_on_one_are_others():
    argvs = (["a"], ["b"], ["a", "b"], ["b", "a"])
    assert len({identity(as_json(parse_args(["--data_path", *paths])[0])) for paths in argvs}) == len(argvs)
    assert as_json(parse_args(["--data_path", "a"])[0])["data_path"] == "a"


# What is not taken


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--test_split", "1-2"], "--test_split 1-2: of which corpus? --data_path holds KEMDy19 and KEMDy20: write KE"),
        (["--SorL", "listener"], "KEMDy20, in which nobody is rated as listener; it has speaker rows alone"),
        (["--test_split", "KEMDy20:12"], "--test_split: the corpus has no utterance of sessions [KEMDy20:12]"),
    ],
)
def test_what_both_have_not_is_refused_in_one_line(corpora, tmp_path, capsys, more, message):
    assert train(corpora, tmp_path / "exp", *more) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "exp").exists()


def test_folders_that_are_no_two_corpora_are_refused(corpora, tmp_path, capsys):
    assert train([corpora[0], corpora[0]], tmp_path / "exp") == 2
    assert "both hold KEMDy19, whose ids would clash" in capsys.readouterr().err
    assert train([corpora[0], str(tmp_path)], tmp_path / "exp") == 2
    assert (
        f"{tmp_path}: holds no df_speaker.csv; run preprocessing.py --data_path {tmp_path}" in capsys.readouterr().err
    )
    assert not (tmp_path / "exp").exists()


# Other commands


def test_a_dialogue_of_either_corpus_is_predicted_as_in_the_test(trained, corpora, tmp_path):
    tested = pd.read_csv(trained / "predictions.csv").set_index("segment_id")
    for corpus, name in zip(corpora, ("KEMDy19", "KEMDy20"), strict=True):
        argv = [str(trained), "--dialogue", "Sess01_script01", "--data_path", corpus, "--gpu_id", "cpu"]
        assert predict.main([*argv, "--out", str(tmp_path / name)]) == 0
        (path,) = (tmp_path / name).glob("*.csv")
        found = pd.read_csv(path)
        expected = tested.loc[[s for s in tested.index if corpus_of(s).name == name and "Sess01_script01" in s]]
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found["p_neutral"], expected["p_neutral"], atol=1e-5)


def test_an_export_names_both_corpora(trained, tmp_path):
    assert export.main([str(trained), str(tmp_path / "out")]) == 0
    about = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["about"]
    assert about["corpus"] == "KEMDy19 sample, seed 0 and KEMDy20 sample, seed 0"
    assert about["synthetic"]
    assert about["test_sessions"] == "KEMDy19:1-2,KEMDy20:1-7"


def test_a_run_of_a_grid_on_both_is_found_reported_and_listed(corpora, tmp_path, capsys):
    argv = ["--data_path", *corpora, "--save_path", str(tmp_path), *TINY, "--epochs", "1"]
    argv += ["--grid", "lam=0.5", "--test_split", "KEMDy20:1-7"]
    (planned,) = parse_plan(["run", *argv]).runs
    assert program.main([*planned.argv, "--save_path", str(tmp_path)]) == 0
    assert experiments.main(["report", *argv]) == 0
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert f"{' and '.join(corpora)}, 120 utterances (speaker)" in page
    assert "KEMDy20:1-7" in page
    (run,) = (read_run(path) for path in tmp_path.iterdir() if (path / "result.json").exists())
    names = {(corpus_of(segment).name, parse_id(segment).dialogue) for segment in run.ids}
    assert count_windows([FoldOfRow((), 1, {0: run}, None, pd.Series())])["dialogues"] == len(names)
    both = run._replace(configuration=run.configuration | {"data": [{"synthetic": False}] * 2})
    assert describe_reported([run])[1].startswith("Not KEMDy19: ")
    assert describe_reported([both])[1].startswith("Not KEMDy19 alone: ")
    capsys.readouterr()
    assert experiments.main(["list", *argv]) == 0
    assert "1 run in all, those that tables share counted once; 1 finished" in capsys.readouterr().out
    assert experiments.main(["runs", "--save_path", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "KEMDy20:1-7" in out
    assert f"data_path=[{','.join(corpora)}]" in out


def test_sessions_of_one_corpus_are_the_same_however_they_are_written(corpora):
    argv = ["list", "--data_path", corpora[1], "--grid", "lam=0.5"]
    plain, named = (
        parse_plan([*argv, "--test_split", f"{name}1-2", "--valid_split", f"{name}3"]) for name in ("", "KEMDy20:")
    )
    assert [planned.run_id for planned in named.runs] == [planned.run_id for planned in plain.runs]
    assert named.runs[0].fold == (1, 2)


def test_a_run_is_resumed_by_sessions_that_carry_its_corpus(stopped):
    argv = ["--resume", str(stopped), "--test_split", "KEMDy19:1-2"]
    assert options_to_resume(*parse_args(argv))[0].test_split == [1, 2]
    with pytest.raises(InputError, match=r"^--test_split \[1, 3\]: the run in .* has \[1, 2\]; leave it out"):
        options_to_resume(*parse_args([*argv[:3], "KEMDy19:1,3"]))


def test_two_runs_on_both_are_compared(trained, capsys):
    assert experiments.main(["compare", str(trained), str(trained), "--resamples", "100"]) == 0
    assert "KEMDy19:1-2,KEMDy20:1-7" in capsys.readouterr().out


def test_the_published_tables_are_of_one_corpus(corpora, tmp_path, capsys):
    """The word after the folders is a table all the same."""
    assert experiments.main(["run", "--save_path", str(tmp_path), "--data_path", *corpora, "3.2"]) == 2
    error = capsys.readouterr().err
    assert "table 3.2: not of KEMDy19 and KEMDy20, which --data_path" in error
    assert "for it there are grids alone" in error
