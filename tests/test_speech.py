"""Speech encoders, their embeddings in the corpus's store, and runs that hear through them."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import transformers
from small_runs import content, only_run, signals_at
from speech_encoders import CONFIGURATIONS, SIZE, make_encoder
from test_processes import TORCHRUN, launch

import experiments
import export
import main as program
import predict
from constants import EMOTIONS
from corpora.wavs import find_wavs, read_wav
from features import speech
from features.speech import SpeechEmbeddings, embed_corpus, make_batches, open_frames
from features.speech_encoder import load_speech_encoder
from prediction.hearing import Hearing
from prediction.predictor import Predictor
from prediction.recording import Clip, Recording
from prediction.utterance import Utterance
from preprocessing import main as preprocess
from sweeps.command_line import parse_plan
from sweeps.data import other_data
from sweeps.jobs import find_runs
from training.folders import find_unfinished, load_run
from training.options import parse_args
from utils import InputError, read_json, write_json

CPU = torch.device("cpu")


def alone(folder: Path, wave: np.ndarray) -> torch.Tensor:
    """An utterance's embedding as the library gives it without a batch or padding."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        if model.config.model_type == "whisper":
            states = model.encoder(inputs["input_features"], output_hidden_states=True).hidden_states
            states = [state[:, : -(-len(wave) // 320)] for state in states]
        else:
            states = model(inputs["input_values"], output_hidden_states=True).hidden_states
    return torch.stack([state[0].mean(0) for state in states])


def noise(samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0.02, 0.1, samples) * np.linspace(0, 1, samples)).astype(np.float32)


def open_embeddings(*store: object) -> SpeechEmbeddings:
    return SpeechEmbeddings(*open_frames(*store))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for family in CONFIGURATIONS:
        make_encoder(folder, family)
    return folder


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_a_batch_of_unlike_lengths_gives_what_each_utterance_gets_alone(encoders, family):
    encoder = load_speech_encoder(str(encoders / family))
    waves = [noise(n, n) for n in (32_000, 8_000, 20_011, 900)]
    found = encoder.embed([encoder.pieces(wave) for wave in waves])
    assert found.shape == (4, encoder.layers, encoder.dimension) == (4, 3, 16)
    for vector, wave in zip(found, waves, strict=True):
        torch.testing.assert_close(vector, alone(encoders / family, wave), rtol=0, atol=1e-4)
    assert (found[:, 0] - found[0, 0]).abs().max() > 0.01


@pytest.mark.parametrize("family", ["whisper", "hubert-layer"])
def test_a_wave_too_long_for_the_model_goes_through_in_pieces_and_a_short_one_is_filled_up(encoders, family):
    encoder = load_speech_encoder(str(encoders / family))
    encoder.max_samples = 32_000
    wave = noise(3 * 30_000, 0)
    whole, first = encoder.embed([encoder.pieces(wave), encoder.pieces(noise(10, 1))])
    parts = torch.stack([alone(encoders / family, part) for part in np.split(wave, 3)])
    torch.testing.assert_close(whole, parts.mean(0), rtol=0, atol=1e-4)
    assert first.isfinite().all()


def test_an_encoder_of_no_known_family_or_with_lacking_weights_is_one_line(encoders, tmp_path, sample):
    with pytest.raises(InputError, match="of the family bert, expected wav2vec2, hubert"):
        load_speech_encoder(str(sample / "kobert"))
    with pytest.raises(InputError, match="no such folder, and not a name such as team-lucid"):
        load_speech_encoder("no/such/folder")
    folder = Path(shutil.copytree(encoders / "hubert-layer", tmp_path / "damaged"))
    model = transformers.AutoModel.from_pretrained(folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1." not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(InputError, match=r"its file lacks encoder\.layers\.1"):
        load_speech_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="not readable as a speech encoder"):
        load_speech_encoder(str(folder))


def test_without_a_feature_extractors_file_waves_are_standardised(encoders, tmp_path):
    folder = Path(shutil.copytree(encoders / "hubert-layer", tmp_path / "bare"))
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"no preprocessor_config\.json"):
        encoder = load_speech_encoder(str(folder))
    torch.testing.assert_close(
        encoder.embed([encoder.pieces(noise(9000, 0))])[0], alone(encoders / "hubert-layer", noise(9000, 0))
    )


def test_batches_are_of_like_length_and_bounded():
    seconds = {"a": 3.0, "b": 40.0, "c": 2.0, "d": 30.0, "e": 0.0}
    assert list(make_batches(seconds, 64)) == [["b"], ["d", "a"], ["c", "e"]]
    assert list(make_batches(seconds, 2)) == [["b"], ["d", "a"], ["c", "e"]]


# The corpus's store


@pytest.fixture(scope="module")
def heard(preprocessed, encoders, tmp_path_factory) -> Path:
    """A pre-processed corpus with embeddings of one encoder; read only."""
    corpus = tmp_path_factory.mktemp("heard") / "corpus"
    shutil.copytree(preprocessed, corpus, ignore=shutil.ignore_patterns("features"))
    before = {path: path.read_bytes() for path in corpus.glob("*") if path.is_file()}
    assert preprocess(["--data_path", str(corpus), "--audio_model", str(encoders / "hubert-group")]) == 0
    assert {path: path.read_bytes() for path in corpus.glob("*") if path.is_file()} == before
    return corpus


def test_embeddings_lie_beside_the_files_that_are_written_elsewhere(sample, encoders, tmp_path):
    before = {path.relative_to(sample) for path in sample.rglob("*")}
    argv = ["--data_path", str(sample), "--out", str(tmp_path / "out"), "--text_model", str(sample / "kobert")]
    assert preprocess([*argv, "--audio_model", str(encoders / "hubert-group"), "--gpu_id", "cpu"]) == 0
    assert {path.relative_to(sample) for path in sample.rglob("*")} == before
    wavs, _ = find_wavs(tmp_path / "out")
    assert open_embeddings(tmp_path / "out" / "features", wavs, list(wavs)).encoder["name"] == "hubert-group"
    assert preprocess([*argv, "--audio_model", str(encoders / "hubert-group"), "--gpu_id", "cpu"]) == 0  # all there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data_path", "other"], "--data_path other: the files in {out} were made from {raw}; name that"),
        (["--text_model", "other"], "--text_model other: the embeddings in {out} are of {raw}/kobert; name that"),
        (["--text_dim", "32"], "--text_dim 32: {out} has no embeddings of that dimension; leave it out"),
    ],
)
def test_embeddings_alone_are_computed_for_the_files_that_are_there(
    sample, encoders, tmp_path, capsys, options, message
):
    out = tmp_path / "out"
    argv = ["--data_path", str(sample), "--out", str(out), "--gpu_id", "cpu"]
    assert preprocess([*argv, "--text_model", str(sample / "kobert")]) == 0
    capsys.readouterr()
    assert preprocess([*argv, "--audio_model", str(encoders / "whisper"), *options]) == 2
    assert message.format(out=out, raw=sample) in capsys.readouterr().err
    assert not (out / "features").exists()


def test_embeddings_alone_are_computed_beside_files_whose_text_model_is_spelt_otherwise_or_unknown(
    preprocessed, encoders, tmp_path, monkeypatch, capsys
):
    corpus = Path(shutil.copytree(preprocessed, tmp_path / "corpus", ignore=shutil.ignore_patterns("features")))
    written = read_json(corpus / "corpus.json")
    write_json(corpus / "corpus.json", written | {"text_model": written["text_model"] | {"name": "corpus/kobert"}})
    monkeypatch.chdir(tmp_path)
    argv = ["--data_path", "corpus", "--gpu_id", "cpu", "--audio_model", str(encoders / "whisper")]
    assert preprocess([*argv, "--text_model", str(corpus / "kobert")]) == 0
    (corpus / "corpus.json").unlink()  # as beside published files
    assert preprocess([*argv, "--text_model", "elsewhere/kobert"]) == 0
    assert preprocess([*argv, "--data_path", str(preprocessed), "--out", "corpus"]) == 2
    assert "--out corpus: its files were not made with --out; give it as --data_path" in capsys.readouterr().err


@pytest.fixture
def own(heard, tmp_path) -> Path:
    return Path(shutil.copytree(heard, tmp_path / "corpus"))


def test_a_store_holds_every_utterances_embedding_in_half_precision(heard, encoders):
    wavs, _ = find_wavs(heard)
    found = open_embeddings(heard / "features", wavs, list(wavs))
    assert found.encoder["name"] == "hubert-group"
    assert found.frames.dtype == torch.float16
    vectors = found.of(torch.tensor([[-1, *range(len(wavs))]]))[0]
    assert not vectors[0].any()
    usable = [n for n in range(len(wavs)) if n not in found.faults]
    for n in usable[::9]:
        expected = alone(encoders / "hubert-group", read_wav(list(wavs.values())[n]))
        torch.testing.assert_close(vectors[n + 1], expected, rtol=1e-3, atol=1e-3)


def test_only_what_is_new_or_has_changed_is_computed_and_training_asks_for_it(own, encoders, monkeypatch):
    wavs, _ = find_wavs(own)
    changed = sorted(wavs)[4]
    soundfile.write(wavs[changed], noise(300_000, 3), 16_000)  # 19 s, whole
    with pytest.raises(InputError, match=rf"lacks 1 utterances such as {changed}, .* --audio_model hubert-group"):
        open_embeddings(own / "features", wavs, [changed])
    asked = []
    embed_wavs = speech.embed_wavs
    monkeypatch.setattr(speech, "embed_wavs", lambda e, wavs, n: asked.extend(wavs) or embed_wavs(e, wavs, n))
    embed_corpus(own, str(encoders / "hubert-group"), CPU)
    assert asked == [changed]
    vector = open_embeddings(own / "features", wavs, [changed]).of(torch.tensor([[0]]))[0, 0]
    torch.testing.assert_close(vector, alone(encoders / "hubert-group", read_wav(wavs[changed])), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError("out of memory")])
def test_an_interrupted_computation_goes_on_where_it_stopped(own, encoders, monkeypatch, failure):
    (path,) = (own / "features").glob("speech-*.safetensors")
    whole = path.read_bytes()
    path.unlink()
    embed_wavs, computed = speech.embed_wavs, []

    def failing(encoder, wavs, batch_size):
        for number, item in enumerate(embed_wavs(encoder, wavs, batch_size)):
            if number == 20 and not computed:
                computed.append(0)
                raise failure
            computed.append(item[0]) if computed else None
            yield item

    monkeypatch.setattr(speech, "embed_wavs", failing)
    monkeypatch.setattr(speech, "SAVE_SECONDS", 0.05)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        embed_corpus(own, str(encoders / "hubert-group"), CPU)
    embed_corpus(own, str(encoders / "hubert-group"), CPU)
    wavs, _ = find_wavs(own)
    assert len(computed) - 1 == len(wavs) - 20
    assert path.stat().st_size == len(whole)
    again = open_embeddings(own / "features", wavs, list(wavs)).of(torch.arange(len(wavs))[None])
    path.write_bytes(whole)
    torch.testing.assert_close(
        again,
        open_embeddings(own / "features", wavs, list(wavs)).of(torch.arange(len(wavs))[None]),
        rtol=2e-3,
        atol=1e-4,
    )


def test_which_encoder_is_said_where_there_are_none_or_several(own, encoders, preprocessed):
    wavs, _ = find_wavs(own)
    with pytest.raises(InputError, match="holds no speech embeddings of other; compute them with preprocessing"):
        open_embeddings(own / "features", wavs, [], "other")
    embed_corpus(own, str(encoders / "whisper"), CPU)
    with pytest.raises(InputError, match=r"hubert-group \(.*whisper \(.*--audio_model"):
        open_embeddings(own / "features", wavs, [])
    assert open_embeddings(own / "features", wavs, [], str(encoders / "whisper")).encoder["name"] == "whisper"


# Runs

ALL = ("--audio", "encoder", "--speakers", "--affect_loss", "mse_ccc")
QUICK = ("--hidden_size", "8", "--num_layers", "1", "--batch_size", "8", "--gpu_id", "cpu", "--test_split", "1-2")


def run(corpus: Path, exp: Path, *options: str) -> int:
    return program.main(["--data_path", str(corpus), "--save_path", str(exp), *QUICK, *options])


@pytest.fixture(scope="module")
def trained(heard, tmp_path_factory) -> Path:
    exp = tmp_path_factory.mktemp("trained")
    assert run(heard, exp, *ALL, "--epochs", "2") == 0
    return only_run(exp)


@pytest.mark.parametrize(
    "options",
    [
        ["--backbone", "gru", "--bidirectional", "--modality", "audio"],
        ["--modality", "text"],
        ["--loss", "cbloss", "--SorL", "listener", "--no_concat", "--num_workers", "1"],
    ],
    ids=" ".join,
)
def test_all_options_work_together_and_are_tested_again(heard, tmp_path, options):
    assert run(heard, tmp_path, *ALL, "--epochs", "1", *options) == 0
    folder = only_run(tmp_path)
    names = torch.load(folder / "model.pth", weights_only=True).keys()
    assert ("speech_branch.layer_weights" in names) is ("text" not in options)
    assert not [name for name in names if name.startswith("audio_embedding")]
    assert program.main(["--data_path", str(heard), "--save_path", str(tmp_path), "--test_only", folder.name]) == 0
    assert read_json(next(folder.glob("test_*")) / "result.json") == read_json(folder / "result.json")


def test_a_loaded_run_knows_its_encoder_also_beside_another(trained, own, encoders, tmp_path):
    loaded = load_run(trained)
    assert (loaded.speech_encoder["name"], loaded.options.audio_model) == ("hubert-group", "hubert-group")
    embed_corpus(own, str(encoders / "whisper"), CPU)
    exp = tmp_path / "exp"
    folder = Path(shutil.copytree(trained, exp / trained.name))
    again = ["--data_path", str(own), "--save_path", str(exp), "--test_only", folder.name]
    assert program.main(again) == 0
    assert (next(folder.glob("test_*")) / "predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()
    configuration = read_json(folder / "configuration.json")
    configuration["speech_encoder"]["fingerprint"] = "00"
    write_json(folder / "configuration.json", configuration)
    assert program.main(again) == 2
    del configuration["speech_encoder"]
    write_json(folder / "configuration.json", configuration)
    with pytest.raises(InputError, match="speech_encoder is None, expected its name, layers, dimension"):
        load_run(folder)


def test_experiments_know_of_which_encoder_a_finished_run_is(own, encoders, tmp_path, capsys):
    grid = ["--grid", "audio=encoder", "modality=audio", "ws=8", "--SorL", "speaker", "--epochs", "1"]
    paths = ["--data_path", str(own), "--save_path", str(tmp_path / "exp")]
    argv = ["run", *grid, *QUICK, *paths]
    assert experiments.main(argv) == 0
    embed_corpus(own, str(encoders / "whisper"), CPU)
    for named in ([], ["--audio_model", "hubert-group"]):  # the run took the only encoder that was there
        capsys.readouterr()
        assert experiments.main([*argv, *named]) == 0
        assert "1 run, 1 finished already" in capsys.readouterr().out
    assert len(find_runs(tmp_path / "exp")) == 2
    path = next((tmp_path / "exp").glob("*/configuration.json"))
    good = path.read_bytes()
    write_json(path, read_json(path) | {"speech_encoder": {"name": "hubert-group"}})
    assert experiments.main(argv) == 2
    assert "configuration.json: speech_encoder is {'name': 'hubert-group'}, expected" in capsys.readouterr().err
    path.write_bytes(good)
    next(own.glob("features/speech-hubert-*.safetensors")).unlink()
    assert experiments.main(argv) == 2
    assert re.search(
        r"made from other data than .* now holds: the speech encoder \(hubert-group, fingerprint \w{12}; now whisper, ",
        capsys.readouterr().err,
    )
    assert experiments.main(["report", *argv[1:]]) == 0
    assert "the speech encoder" in (tmp_path / "exp" / "report" / "grid.md").read_text("utf-8")
    stored = {name: value for name, value in json.loads(good).items() if name not in ("speech_encoder", "train_split")}
    write_json(path, stored)  # as of a run that was killed before it began
    folders = {run_id: found.folder for run_id, found in find_runs(tmp_path / "exp").items()}
    assert other_data(parse_plan(argv).runs, folders) == {}


def test_two_encoders_of_one_name_are_not_kept_together(own, tmp_path, capsys):
    other = make_encoder(tmp_path, "hubert-group", seed=1)
    before = {path: path.read_bytes() for path in own.glob("features/*.safetensors")}
    assert preprocess(["--data_path", str(own), "--audio_model", str(other)]) == 2
    assert "of another encoder called hubert-group, and runs know an encoder by its name" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in own.glob("features/*.safetensors")} == before
    assert preprocess(["--data_path", str(own), "--audio_model", str(other.rename(tmp_path / "hubert-new"))]) == 0


def test_an_encoder_that_was_given_as_a_folder_is_found_again_by_its_name_and_by_any_path(heard, encoders, tmp_path):
    exp, path = tmp_path / "exp", str(encoders / "hubert-group")
    options = (*ALL, "--epochs", "1", "--audio_model")
    assert run(heard, exp, *options, path) == 0
    folder = only_run(exp)
    assert read_json(folder / "configuration.json")["audio_model"] == "hubert-group"
    assert run(heard, exp, *options, "hubert-group", "--resume", folder.name) == 0  # finished already
    for name in (path, "hubert-group"):
        again = ["--data_path", str(heard), "--save_path", str(exp), "--test_only", folder.name, "--audio_model", name]
        assert program.main(again) == 0
    (folder / "result.json").unlink()
    for name in (path, "hubert-group"):
        found, _ = parse_args(["--data_path", str(heard), "--save_path", str(exp), *QUICK, *options, name])
        assert find_unfinished(found) == folder


def test_a_stopped_run_goes_on_to_the_same_result(trained, heard, tmp_path):
    with signals_at(7, signal.SIGTERM):
        assert run(heard, tmp_path, *ALL, "--epochs", "2") == 128 + signal.SIGTERM
    assert run(heard, tmp_path, *ALL, "--epochs", "2", "--resume", "auto") == 0
    assert content(only_run(tmp_path)) == content(trained)


# Without batch norm, whose statistics on CPUs are those of each process's part
WITHOUT_BATCH_NORM = """
import sys, torch, main
torch.nn.BatchNorm1d = lambda features: torch.nn.Identity()
sys.exit(main.main())
"""


def test_two_processes_train_on_the_ccc_of_the_whole_batch(heard, tmp_path, monkeypatch):
    script = tmp_path / "program.py"
    script.write_text(WITHOUT_BATCH_NORM)
    options = (*ALL, "--epochs", "1", "--optim", "sgd", "--momentum", "0.9", "--lr", "0.05")
    where = ("--data_path", heard, "--save_path", tmp_path / "two")
    done = launch(TORCHRUN, script, *where, *QUICK, *options)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(torch.nn, "BatchNorm1d", lambda features: torch.nn.Identity())
    assert run(heard, tmp_path / "one", *options) == 0
    one, two = (torch.load(only_run(tmp_path / exp) / "model.pth", weights_only=True) for exp in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


def test_configuration_holds_the_encoder_and_only_where_there_is_one(trained, finished):
    stored = json.loads((trained / "configuration.json").read_text())
    assert stored["speech_encoder"].keys() == {"name", "layers", "dimension", "fingerprint"}
    assert "speech_encoder" not in json.loads((finished / "configuration.json").read_text())


# Predicting


@pytest.fixture(scope="module")
def talk(heard, trained, tmp_path_factory) -> Path:
    """A tested dialogue as one recording, with its segments and the expected rows."""
    folder = tmp_path_factory.mktemp("talk")
    table = pd.read_csv(trained / "predictions.csv").query("dialogue == 'Sess01_script01'")
    wavs, pieces, rows, position = find_wavs(heard)[0], [], [], 0
    for segment, speaker in zip(table["segment_id"], table["speaker"], strict=True):
        wave, rate = soundfile.read(wavs[segment], dtype="int16")
        text = wavs[segment].with_suffix(".txt").read_text("utf-8").strip()
        rows.append([position / rate, (position + len(wave)) / rate, speaker, text])
        pieces.append(wave)
        position += len(wave)
    soundfile.write(folder / "talk.wav", np.concatenate(pieces), rate)
    pd.DataFrame(rows, columns=["start", "end", "speaker", "text"]).to_csv(folder / "talk.csv", index=False)
    table.to_csv(folder / "expected.csv", index=False)
    return folder


def assert_predicted(out: Path, talk: Path) -> None:
    found, expected = pd.read_csv(out / "predictions.csv"), pd.read_csv(talk / "expected.csv")
    columns = [f"p_{name}" for name in EMOTIONS]
    assert len(found) == len(expected) == 5
    np.testing.assert_allclose(found[columns], expected[columns], rtol=0, atol=1e-4)
    affect = ["arousal", "valence"]
    np.testing.assert_allclose(found[affect], expected[[f"{name}_pred" for name in affect]], rtol=0, atol=1e-3)


@pytest.mark.parametrize("at_once", [2, 64])
def test_a_recording_gives_the_numbers_of_the_test(trained, talk, encoders, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("prediction.predictor.AT_ONCE", at_once)
    arguments = [str(trained), str(talk / "talk.wav"), "--segments", str(talk / "talk.csv"), "--gpu_id", "cpu"]
    arguments += ["--audio_model", str(encoders / "hubert-group"), "--out", str(tmp_path / "out")]
    embedded, embed = [], speech.SpeechEncoder.embed
    monkeypatch.setattr(speech.SpeechEncoder, "embed", lambda e, batch: embedded.append(len(batch)) or embed(e, batch))
    assert predict.main(arguments) == 0
    assert sum(embedded) == 5  # each once, though windows reach into the part before
    assert_predicted(tmp_path / "out", talk)


def test_a_dialogue_of_a_corpus_is_heard_from_its_wavs(trained, talk, encoders, tmp_path, capsys):
    corpus = read_json(trained / "configuration.json")["data_path"]
    arguments = [str(trained), "--dialogue", "Sess01_script01", "--data_path", corpus, "--gpu_id", "cpu"]
    arguments += ["--audio_model", str(encoders / "hubert-group"), "--out", str(tmp_path / "out")]
    assert predict.main(arguments) == 0
    assert "is not the one" not in capsys.readouterr().err
    assert_predicted(tmp_path / "out", talk)
    del arguments[-4:-2]
    assert predict.main([*arguments[:-1], str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("of a folder called hubert-group; give the place where it is now as --audio_model")


def test_an_utterance_is_heard_whole_from_a_file_a_recording_and_samples(encoders, tmp_path):
    encoder = load_speech_encoder(str(encoders / "hubert-group"))
    wave = noise(16_000 * 14, 0)
    soundfile.write(tmp_path / "talk.wav", wave, 16_000, subtype="FLOAT")
    clip = Clip(Recording(tmp_path / "talk.wav"), 0, 14)
    utterances = [Utterance(wave), Utterance(tmp_path / "talk.wav"), Utterance(clip), Utterance(text="네")]
    assert [utterance.seconds for utterance in utterances] == [14, 14, 14, 0]
    with Hearing(encoder, utterances, quiet=True) as hearing:
        found = hearing.part(0, 4).of(torch.arange(4)[None])[0]
    for vector in found[:3]:
        torch.testing.assert_close(vector, alone(encoders / "hubert-group", wave), rtol=1e-3, atol=1e-3)
    assert not found[3].any()


def test_another_speech_encoder_is_warned_of_and_one_of_another_shape_refused(trained, encoders, tmp_path):
    utterances = [Utterance(noise(9000, 0), embedding=np.zeros(768, np.float32), speaker="A")]
    with pytest.warns(UserWarning, match="speech encoder .*whisper is not the one that .*predictions from sound"):
        Predictor(trained, audio_model=str(encoders / "whisper"), gpu_id="cpu").dialogue(utterances)
    model = transformers.AutoModel.from_config(transformers.HubertConfig(**SIZE | {"num_hidden_layers": 1}))
    model.save_pretrained(tmp_path / "small")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"2 layers of 16 values, .* was trained with hubert-group, 3 layers of 16"):
        Predictor(trained, audio_model=str(tmp_path / "small"), gpu_id="cpu").dialogue(utterances)


def test_a_run_with_a_speech_encoder_is_exported_loaded_and_predicts(trained, talk, encoders, tmp_path):
    assert export.main([str(trained), str(tmp_path / "model")]) == 0
    about = read_json(tmp_path / "model" / "config.json")["about"]
    assert about["speech_encoder"] == read_json(trained / "configuration.json")["speech_encoder"]
    assert "| speech encoder | hubert-group, fingerprint " in (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "Its input is sound and text, and who speaks." in (tmp_path / "model" / "README.md").read_text("utf-8")
    loaded, own = export.MATE.from_pretrained(tmp_path / "model"), load_run(trained).model.eval()
    inputs = torch.randn(3, 8, 3, 16), torch.randn(3, 8, 768), False, torch.ones(3, 8, dtype=torch.int64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*inputs), own(*inputs))
    arguments = [str(tmp_path / "model"), str(talk / "talk.wav"), "--segments", str(talk / "talk.csv")]
    arguments += ["--audio_model", str(encoders / "hubert-group"), "--text_model", str(heard_text_model(trained))]
    assert predict.main([*arguments, "--gpu_id", "cpu", "--out", str(tmp_path / "out")]) == 0
    assert_predicted(tmp_path / "out", talk)


def heard_text_model(folder: Path) -> str:
    return read_json(folder / "configuration.json")["data"]["text_model"]["name"]
