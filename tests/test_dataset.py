"""Windows of utterances, their batches, and the features of a corpus with what is missing."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from constants import EMOTIONS
from corpora.utterances import SHARES, read_utterances
from corpora.wavs import find_wavs, read_wav
from dataset import (
    Features,
    WindowDataset,
    load_features,
    make_windows,
    prefetch,
    report_missing,
    shuffled_batches,
    speaker_flags,
)
from features.log_mel import LogMels, log_mel
from training.options import make_options
from utils import InputError, run_command

CPU = torch.device("cpu")

# Windows


def test_windows_are_the_last_utterances_of_a_dialogue_padded_on_the_left():
    dialogue = ["a", "a", "a", "b", "b", "a"]  # the last row returns to the first dialogue
    expected = [[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [-1, -1, 3], [-1, 3, 4], [1, 2, 5]]
    np.testing.assert_array_equal(make_windows(dialogue, 3), expected)
    rng = np.random.default_rng(0)
    dialogue = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 20, 30)))
    for i, window in enumerate(make_windows(dialogue, 8)):
        own = [j for j in range(i + 1) if dialogue[j] == dialogue[i]][-8:]
        assert window.tolist() == [-1] * (8 - len(own)) + own


def test_speaker_flags_compare_with_the_last_utterance():
    speaker, windows = np.array(["F", "M", "F"]), np.array([[-1, -1, 0], [-1, 0, 1], [0, 1, 2]])
    assert speaker_flags(speaker, windows).tolist() == [[0, 0, 1], [0, 2, 1], [1, 2, 1]]


# Batches

N, WS = 10, 4


@pytest.fixture(scope="module")
def log_mels() -> LogMels:
    """Of noise; the last utterance is longer than 10 s, and one has no wav."""
    samples, rng = [*range(20_000, 29_000, 1_000), 200_000], np.random.default_rng(0)
    frames = [log_mel(rng.normal(0, 0.1, n).astype(np.float32)) for n in samples]
    return LogMels([*frames[:6], None, *frames[7:]])


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = pd.DataFrame({"id": [f"u{i}" for i in range(N)], "dialogue": [*"aaaaabbbbb"], "speaker": [*"FMFMMMFMFF"]})
    found["emotion"] = ["disgust;happy", *np.array(EMOTIONS)[rng.integers(0, 7, N - 1)]]
    for column in ("arousal", "valence"):
        found[column] = rng.uniform(1, 5, N).astype(np.float32)
    found[SHARES] = rng.dirichlet(np.ones(7), N).astype(np.float32)
    return found


def dataset_of(table: pd.DataFrame, log_mels: LogMels | None, targets: object = range(N), **settings) -> WindowDataset:
    text = torch.arange(N * 3, dtype=torch.float32).reshape(N, 3) + 1
    return WindowDataset(table, Features(log_mels, text, None), np.array(targets), WS, **settings)


def test_a_batch_holds_the_utterances_and_labels_of_each_window(table, log_mels):
    batch = dataset_of(table, log_mels, [7, 1, 9], speakers=True).batch([0, 1, 2])
    assert batch.speakers.tolist() == [[0, 1, 2, 1], [0, 0, 2, 1], [1, 2, 1, 1]]
    windows = torch.tensor([[-1, 5, 6, 7], [-1, -1, 0, 1], [6, 7, 8, 9]])
    assert torch.equal(batch.audio, log_mels.spectrograms(windows))
    expected = torch.arange(3) + 3.0 * windows[:, :, None] + 1
    assert torch.equal(batch.text, expected.where(windows[:, :, None] >= 0, 0))


def test_targets_are_soft_in_training_and_multi_hot_in_test_and_may_be_absent(table):
    soft, hot = (dataset_of(table, None, [0, 3], soft_targets=kind).batch([0, 1]) for kind in (True, False))
    np.testing.assert_array_equal(soft.emotion, table[SHARES].iloc[[0, 3]])
    assert hot.emotion[0].tolist() == [1, 0, 0, 0, 0, 0, 1]
    np.testing.assert_array_equal(hot.arousal[:, 0], table["arousal"][[0, 3]])
    np.testing.assert_array_equal(hot.valence[:, 0], table["valence"][[0, 3]])
    assert hot.audio is hot.speakers is None
    unlabelled = dataset_of(table[["id", "dialogue", "speaker"]], None, [0, 3]).batch([0, 1])
    assert unlabelled.target == (None, None, None)
    assert torch.equal(unlabelled.text, hot.text)


def test_crops_differ_by_epoch_and_repeat_with_the_seed(table, log_mels):
    first, again, other = (dataset_of(table, log_mels, crop_seed=seed) for seed in (1, 1, 2))
    central = dataset_of(table, log_mels)

    def last(dataset: WindowDataset, epoch: int) -> torch.Tensor:
        dataset.set_epoch(epoch)
        return dataset.batch([N - 1]).audio[0, -1]

    assert torch.equal(last(first, 1), last(again, 1))
    assert not torch.equal(last(first, 1), last(first, 2))
    assert not torch.equal(last(first, 1), last(other, 1))
    assert torch.equal(last(central, 1), last(central, 2))
    rounded = dataset_of(table, log_mels, audio_dtype=torch.bfloat16)
    assert torch.equal(last(central, 1).bfloat16(), last(rounded, 1))


def test_class_counts_and_weights(table):
    assert dataset_of(table, None, [0]).class_counts.tolist() == [1, 0, 0, 0, 0, 0, 1]
    emotions = ["neutral"] * 870 + ["happy"] * 80 + ["angry"] * 40 + ["sad"] * 10
    emotions[0] = "neutral;happy"  # a tie counts as half of each of its labels
    many = pd.concat([table.iloc[:1]] * 1000, ignore_index=True).assign(emotion=emotions)
    dataset = WindowDataset(many, Features(None, torch.zeros(1000, 1), None), np.arange(1000), 1)
    assert dataset.weights[:2].tolist() == pytest.approx([(1 / 870 + 1 / 81) / 2, 1 / 870])
    generator = torch.Generator().manual_seed(0)
    epochs = [torch.cat(shuffled_batches(1000, 100, generator, dataset.weights)) for _ in range(4)]
    drawn = dataset.majority[torch.cat(epochs)].sum(axis=0) / 4000
    np.testing.assert_allclose(drawn[[1, 2, 5, 6]], 0.25, atol=0.03)
    assert drawn[[0, 3, 4]].sum() == 0


def test_training_batches_are_shuffled_and_whole_and_prefetched_in_their_order(table):
    dataset = dataset_of(table, None)
    order = [shuffled_batches(N, 4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert [len(batch) for batch in order[0]] == [4, 4]
    first, again, other = (torch.cat(batches).tolist() for batches in order)
    assert len(set(first)) == 8
    assert first == again != other
    generator = torch.Generator().manual_seed(3)  # the order of torch's DataLoader, in each epoch
    epochs = [torch.cat(shuffled_batches(N, 4, generator)).tolist() for _ in range(2)]
    assert epochs == [[6, 0, 3, 7, 8, 5, 1, 9], [1, 3, 0, 9, 5, 4, 8, 2]]
    batches = [batch.arousal for batch in prefetch(dataset, order[0], CPU)]
    assert torch.cat(batches)[:, 0].tolist() == table["arousal"][first].tolist()
    with pytest.raises(IndexError):
        [*prefetch(dataset, [torch.tensor([N])], CPU)]


# The features of a corpus


def options(corpus: Path, modality: str = "audio_text") -> argparse.Namespace:
    return make_options(data_path=corpus, modality=modality, sr=4000)


@pytest.fixture
def own(preprocessed, tmp_path) -> Path:
    return shutil.copytree(preprocessed, tmp_path / "corpus", ignore=shutil.ignore_patterns("features"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_features_of_a_corpus_are_those_of_its_files(own):
    table, wavs = read_utterances(own, "speaker"), find_wavs(own)
    absent = table["id"][7]
    wavs.pop(absent).unlink()
    features = load_features(options(own), table)
    assert features.missing["wav"] == [absent]
    vectors = np.load(own / "embedding_768.npy", allow_pickle=True).item()
    frames = [log_mel(read_wav(wavs[s], 4000), 4000) if s in wavs else None for s in table["id"]]
    expected = LogMels(frames, 4000).spectrograms(torch.arange(len(table))[None])
    found = features.log_mels.spectrograms(torch.arange(len(table))[None])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)  # frames are float16, computed with other threads
    for row in (0, 7, 20):
        np.testing.assert_array_equal(features.text[row], vectors[f"{table['id'][row]}.txt"])
    shutil.rmtree(own / "features")
    (own / "features").write_text("no folder can be made")
    assert run_command(lambda: load_features(options(own), table)) == 2


def test_unreadable_and_damaged_wavs_are_missing(own):
    table, wavs = read_utterances(own, "speaker"), find_wavs(own)
    one, two, *more = table["id"]
    wavs[one].unlink()
    wavs[one].symlink_to("nothing")
    wavs[two].write_bytes(b"no sound")
    with pytest.warns(UserWarning, match=f"(?s){one}.*{two}"):
        features = load_features(options(own, "audio"), table)
    assert features.missing["wav"] == [one, two]
    audio = features.log_mels.spectrograms(torch.arange(len(table))[None])[0]
    assert audio.flatten(1).any(dim=1).tolist() == [False, False, *[True] * len(more)]


def test_few_missing_are_listed_once_and_many_or_a_whole_session_stop_the_run():
    ids = pd.Series([f"u{i}" for i in range(100)])
    table = pd.DataFrame({"id": ids, "session": [1 + i % 2 for i in range(100)]})
    with pytest.warns(UserWarning, match="u0, u1"):
        assert report_missing(table, ids.isin(["u0", "u1"]), "wav", Path("there")) == ["u0", "u1"]
    assert report_missing(table, ids.isin([]), "wav", Path("there")) == []
    with pytest.raises(InputError, match="there"):
        report_missing(table, ids.isin(ids[:6]), "wav", Path("there"))
    table.loc[[98, 99], "session"] = 3
    with pytest.raises(InputError, match=r"session 3.*u98"):
        report_missing(table, ids.isin(["u98", "u99"]), "text", Path("there"))
