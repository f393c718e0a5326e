"""Speech encoders against the library, and the embeddings of a corpus: computed, kept, found and read."""

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from speech_encoders import CONFIGURATIONS, make_encoder

import preprocessing
from corpora.utterances import read_utterances
from corpora.wavs import find_wavs, read_wav
from dataset import WindowDataset, load_features
from features.encoders import embeddings_digest, encoder_name, encoders_of, find_encoder, save_encoder_embeddings
from features.speech_encoder import load_speech_encoder
from training.options import file_path
from utils import InputError


def library_embedding(folder: Path, wave: np.ndarray) -> torch.Tensor:
    """An utterance's embedding by the library alone."""
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
    return np.random.default_rng(seed).normal(0.02, 0.1, samples).astype(np.float32)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for family in CONFIGURATIONS:
        make_encoder(folder, family)
    return folder


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_an_embedding_is_the_mean_of_each_layer_and_long_waves_are_embedded_in_parts(encoders, family):
    encoder = load_speech_encoder(str(encoders / family))
    assert (encoder.shape, encoder.rate) == ((3, 16), 16_000)
    for wave in (noise(32_000, 0), noise(900, 1)):
        torch.testing.assert_close(encoder.embed(wave), library_embedding(encoders / family, wave), rtol=0, atol=1e-4)
    encoder.max_samples = 32_000
    parts = [library_embedding(encoders / family, part) for part in np.split(noise(90_000, 0), 3)]
    torch.testing.assert_close(encoder.embed(noise(90_000, 0)), torch.stack(parts).mean(0), rtol=0, atol=1e-4)
    assert encoder.embed(noise(10, 1)).isfinite().all()  # too short for a frame: filled up


def test_without_a_feature_extractor_waves_are_standardised_and_other_damages_are_one_line(encoders, tmp_path, sample):
    folder = Path(shutil.copytree(encoders / "hubert-layer", tmp_path / "damaged"))
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"preprocessor_config\.json"):
        found = load_speech_encoder(str(folder)).embed(noise(9000, 0))
    torch.testing.assert_close(found, library_embedding(encoders / "hubert-layer", noise(9000, 0)))
    model = transformers.AutoModel.from_pretrained(folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1." not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(InputError, match=r"damaged.*layers\.1"):
        load_speech_encoder(str(folder))
    model.save_pretrained(folder, state_dict={name: tensor * np.nan for name, tensor in model.state_dict().items()})
    with pytest.raises(InputError, match=r"damaged.*finite"):
        load_speech_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(InputError, match=r"damaged.*LFS"):
        load_speech_encoder(str(folder))
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="damaged"):
        load_speech_encoder(str(folder))
    with pytest.raises(InputError, match="bert"):
        load_speech_encoder(str(sample / "kobert"))


def test_a_damaged_feature_extractor_is_not_taken_for_none_and_a_home_folder_is_found(encoders, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder = Path(shutil.copytree(encoders / "hubert-layer", tmp_path / "hubert"))
    assert load_speech_encoder("~/hubert").shape == (3, 16)
    assert encoder_name("~/hubert") == "hubert"
    assert file_path("~/hubert") == folder  # of --data_path=~/hubert, which no shell expands
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="hubert"):
        load_speech_encoder(str(folder))


# The embeddings of a corpus


@pytest.fixture
def own(spoken, tmp_path) -> Path:
    return Path(shutil.copytree(spoken, tmp_path / "corpus"))


def options(corpus: Path) -> Namespace:
    return Namespace(data_path=corpus, audio_path=None, modality="audio", audio="encoder", audio_model=None)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_training_reads_the_embedding_of_every_utterance(spoken):
    table, wavs = read_utterances(spoken, "speaker"), find_wavs(spoken)
    features = load_features(options(spoken), table)
    assert features.speech.dtype == torch.float16
    (absent,) = {*table["id"]} - wavs.keys()
    assert features.missing == {"wav": [absent]}
    windows = WindowDataset(table, features, np.arange(len(table)), 2)
    for number in range(0, len(table), 9):
        if wav := wavs.get(table["id"][number]):
            expected = library_embedding(spoken / "encoders" / "hubert-group", read_wav(wav))
            torch.testing.assert_close(windows.batch([number]).audio[0, 1], expected, rtol=1e-3, atol=1e-3)
    assert not windows.batch([0]).audio[0, 0].any()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_changed_wav_is_asked_for_and_computed_alone_and_the_digest_follows(own, monkeypatch):
    table, wavs = read_utterances(own, "speaker"), find_wavs(own)
    changed, *others = sorted(set(wavs) & set(table["id"]))
    before = [embeddings_digest(own, "speech", find_encoder(own, "speech"), ids) for ids in ([changed], others)]
    soundfile.write(wavs[changed], noise(300_000, 3), 16_000)  # 19 s, whole
    with pytest.raises(InputError, match=changed):
        load_features(options(own), table)
    encoder, embedded = load_speech_encoder(str(own / "encoders" / "hubert-group")), []
    embed = encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda wave: embedded.append(len(wave)) or embed(wave))
    save_encoder_embeddings(own, None, encoder)
    assert embedded == [300_000]
    row = table["id"].tolist().index(changed)
    expected = library_embedding(own / "encoders" / "hubert-group", read_wav(wavs[changed]))
    torch.testing.assert_close(load_features(options(own), table).speech[row].float(), expected, rtol=1e-3, atol=1e-3)
    after = [embeddings_digest(own, "speech", find_encoder(own, "speech"), ids) for ids in ([changed], others)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]
    soundfile.write(wavs[changed], np.full(9000, np.nan), 16_000, subtype="FLOAT")  # cannot be computed
    assert changed in load_features(options(own), table).missing["wav"]


def test_one_of_several_encoders_is_named_and_two_of_one_name_are_refused(own, encoders, tmp_path):
    (known,) = encoders_of(own, "speech")
    assert (known["name"], known["shape"], known["learnt_sessions"]) == ("hubert-group", [3, 16], None)
    assert find_encoder(own, "speech") == find_encoder(own, "speech", str(own / "encoders" / "hubert-group")) == known
    with pytest.raises(InputError, match="other"):
        find_encoder(own, "speech", "other")
    other = load_speech_encoder(str(make_encoder(tmp_path, "hubert-group", seed=1)))
    with pytest.raises(InputError, match="hubert-group"):
        save_encoder_embeddings(own, None, other)
    assert encoders_of(own, "speech") == [known]
    save_encoder_embeddings(own, None, load_speech_encoder(str(encoders / "whisper")))
    with pytest.raises(InputError, match="whisper"):
        find_encoder(own, "speech")
    assert find_encoder(own, "speech", str(encoders / "whisper"))["name"] == "whisper"


def test_embeddings_are_added_beside_pre_processed_files_which_stay(preprocessed, encoders, tmp_path):
    corpus = shutil.copytree(preprocessed, tmp_path / "corpus", ignore=shutil.ignore_patterns("features"))
    before = {path: path.read_bytes() for path in corpus.glob("*") if path.is_file()}
    argv = ["--data_path", str(corpus), "--audio_model", str(encoders / "hubert-group"), "--gpu_id", "cpu"]
    assert preprocessing.main(argv) == 0
    assert {path: path.read_bytes() for path in corpus.glob("*") if path.is_file()} == before
    assert [encoder["name"] for encoder in encoders_of(corpus, "speech")] == ["hubert-group"]
    shutil.rmtree(corpus / "wav")
    with pytest.raises(InputError, match="audio_path"):
        save_encoder_embeddings(corpus, None, load_speech_encoder(str(encoders / "whisper")))
