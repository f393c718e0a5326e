import numpy as np
import pytest
import torch

from corpora.annotation import Annotation, load_annotations, read_annotation
from corpora.kemdy19 import FOLDS
from corpora.sessions import training_sessions
from dataset import (
    ShuffledBatches,
    Utterances,
    WindowDataset,
    inverse_frequencies,
    make_windows,
    ordered_loader,
    shuffled_loader,
    tell_speakers,
)
from features.log_mel import LogMels, log_mel
from features.utterances import load_utterances
from training.options import parse_args


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


# Windows


def test_windows_are_the_last_utterances_of_a_dialogue_padded_on_the_left():
    dialogue = np.array([0, 0, 0, 1, 1, 0])  # the last row returns to dialogue 0
    expected = [[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [-1, -1, 3], [-1, 3, 4], [1, 2, 5]]
    np.testing.assert_array_equal(make_windows(dialogue, 3), expected)


def test_windows_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    dialogue = np.repeat(np.arange(30), rng.integers(1, 20, 30))
    windows = make_windows(dialogue, 8)
    for i, window in enumerate(windows):
        own = [j for j in range(i + 1) if dialogue[j] == dialogue[i]][-8:]
        assert window.tolist() == [-1] * (8 - len(own)) + own


def test_folds_cover_every_utterance_once_and_windows_stay_within_their_sessions(preprocessed):
    annotation = read_annotation(preprocessed / "df_speaker.csv")
    windows = make_windows(annotation.dialogue, 8)
    tested = []
    for fold in FOLDS:
        test = np.flatnonzero(np.isin(annotation.session, fold))
        train = np.setdiff1d(np.arange(len(annotation.ids)), test)
        tested += test.tolist()
        in_test, in_training = (set(windows[part].ravel()) - {-1} for part in (test, train))
        assert in_test == set(test)
        assert in_training == set(train)
    assert sorted(tested) == list(range(len(annotation.ids)))


def test_weights_draw_every_emotion_about_as_often():
    majority = np.zeros((1000, 7), dtype=np.float32)
    majority[:870, 5] = majority[870:950, 6] = majority[950:990, 1] = majority[990:, 2] = 1
    majority[0, 6] = 1  # a tie counts as half of each of its labels
    weights = inverse_frequencies(majority, majority.sum(axis=0))
    assert weights[0] == pytest.approx((1 / 870 + 1 / 81) / 2)
    assert weights[1] == pytest.approx(1 / 870)
    assert weights[-1] == pytest.approx(1 / 10)
    order = ShuffledBatches(1000, 100, torch.Generator().manual_seed(0), weights=weights)
    epochs = [np.concatenate(list(order)) for _ in range(4)]
    assert all(len(epoch) == 1000 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()
    drawn = majority[np.concatenate(epochs)].sum(axis=0) / 4000
    np.testing.assert_allclose(drawn[[1, 2, 5, 6]], 0.25, atol=0.03)
    assert drawn[[0, 3, 4]].sum() == 0


def test_the_weighted_order_repeats_and_is_dealt_to_processes():
    weights = torch.rand(50, dtype=torch.float64)
    whole = list(ShuffledBatches(50, 8, torch.Generator().manual_seed(3), weights=weights))
    halves = [
        list(ShuffledBatches(50, 8, torch.Generator().manual_seed(3), slice(rank, None, 2), weights=weights))
        for rank in (0, 1)
    ]
    assert len(whole) == 6
    for batch, first, second in zip(whole, *halves, strict=True):
        assert (batch[::2], batch[1::2]) == (first, second)


# Data set

N, WS = 10, 4


@pytest.fixture
def annotation() -> Annotation:
    rng = np.random.default_rng(0)
    majority = np.eye(7, dtype=np.float32)[rng.integers(0, 7, N)]
    majority[0] = [1, 0, 0, 0, 0, 0, 1]
    return Annotation(
        ids=[f"Sess01_script01_F{i:03d}" for i in range(N)],
        session=np.repeat([1, 2], 5),
        dialogue=np.repeat([0, 1], 5),
        majority=majority,
        soft=rng.dirichlet(np.ones(7), N).astype(np.float32),
        arousal=rng.uniform(1, 5, N).astype(np.float32),
        valence=rng.uniform(1, 5, N).astype(np.float32),
    )


WAVES = [*(noise(20_000 + 1000 * i, i) for i in range(N - 1)), noise(200_000, N)]
WAVES[6] = None  # not the first, which a padded place would be filled from if it were not zeroed


def make_dataset(
    annotation: Annotation, train: bool, targets: np.ndarray | None = None, seed: int = 0
) -> WindowDataset:
    text = torch.arange(N * 3, dtype=torch.float32).reshape(N, 3) + 1
    targets = np.arange(N) if targets is None else targets
    utterances = Utterances(annotation, LogMels.from_waves(WAVES), text)
    return WindowDataset(utterances, targets, WS, soft_targets=train, crop_seed=seed if train else None)


def test_windows_tell_who_says_what_the_targets_speaker_says():
    speaker, windows = np.array(["F", "M", "F"]), np.array([[-1, -1, 0], [-1, 0, 1], [0, 1, 2]])
    assert tell_speakers(speaker, windows).tolist() == [[0, 0, 1], [0, 2, 1], [1, 2, 1]]


def test_a_batch_tells_speakers_if_asked(preprocessed):
    argv = ["--data_path", str(preprocessed), "--modality", "text"]
    for more in ([], ["--speakers"]):
        options, _ = parse_args([*argv, *more])
        utterances = load_utterances(options, load_annotations(options.data_path, options.SorL))
        windows = WindowDataset(utterances, np.arange(9), 4)
        batch = windows.__getitems__([8, 2])
        if not more:
            assert batch.speakers is None
            continue
        ids = utterances.annotation.ids
        for told, window in zip(batch.speakers, windows.windows[[8, 2]], strict=True):
            names = ["" if number < 0 else ids[number][-4] for number in window]
            assert told.tolist() == [0 if not name else 1 if name == names[-1] else 2 for name in names]


def test_a_batch_holds_each_windows_utterances(annotation):
    dataset = make_dataset(annotation, train=False)
    batch = dataset.__getitems__([7, 1, 9])
    assert batch.audio.shape == (3, WS, 229, 313)
    for row, utterances in enumerate([[-1, 5, 6, 7], [-1, -1, 0, 1], [6, 7, 8, 9]]):
        for place, utterance in enumerate(utterances):
            audio, text = batch.audio[row, place], batch.text[row, place]
            if utterance < 0 or WAVES[utterance] is None:
                assert not audio.any()
            else:
                torch.testing.assert_close(audio, log_mel(WAVES[utterance]), rtol=0, atol=1e-5)
            expected = torch.zeros(3) if utterance < 0 else torch.arange(3) + 3.0 * utterance + 1
            assert torch.equal(text, expected)


def test_a_batch_is_channels_last_and_may_be_bfloat16(annotation):
    utterances = Utterances(annotation, LogMels.from_waves(WAVES), None)
    exact, rounded = (
        WindowDataset(utterances, np.arange(N), WS, crop_seed=0, audio_dtype=dtype).__getitems__(list(range(N))).audio
        for dtype in (torch.float32, torch.bfloat16)
    )
    for audio in (exact, rounded):
        assert audio.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(exact.bfloat16(), rounded)


def test_an_utterance_of_several_windows_is_read_once(annotation, monkeypatch):
    dataset = make_dataset(annotation, train=False)
    read = []
    spectrograms = LogMels.spectrograms
    monkeypatch.setattr(
        LogMels,
        "spectrograms",
        lambda self, which, *more: read.extend(which.tolist()) or spectrograms(self, which, *more),
    )
    dataset.__getitems__([6, 7, 8, 9])
    assert read == [5, 6, 7, 8, 9] or sorted(read) == [0, 5, 6, 7, 8, 9]  # 0 where a place is padded


def test_targets_are_soft_in_training_and_multi_hot_in_test(annotation):
    targets = np.array([0, 3])
    train, test = (make_dataset(annotation, train, targets).__getitems__([0, 1]) for train in (True, False))
    np.testing.assert_array_equal(train.emotion, annotation.soft[targets])
    np.testing.assert_array_equal(test.emotion, annotation.majority[targets])
    np.testing.assert_array_equal(test.arousal[:, 0], annotation.arousal[targets])
    np.testing.assert_array_equal(test.valence[:, 0], annotation.valence[targets])


def test_class_counts_count_every_label_of_a_tie(annotation):
    counts = make_dataset(annotation, True, np.array([0, 1])).class_counts
    assert counts.sum() == 3
    np.testing.assert_array_equal(counts, annotation.majority[:2].sum(axis=0))


def test_crops_differ_by_epoch_and_repeat_with_the_seed(annotation):
    first, again, other = (make_dataset(annotation, True, seed=seed) for seed in (1, 1, 2))

    def last(dataset: WindowDataset, epoch: int) -> torch.Tensor:
        dataset.set_epoch(epoch)
        return dataset[N - 1].audio[0, -1]

    assert torch.equal(last(first, 1), last(again, 1))
    assert not torch.equal(last(first, 1), last(first, 2))
    assert not torch.equal(last(first, 1), last(other, 1))


def test_left_out_modalities_are_none(annotation):
    text = torch.zeros(N, 3)
    assert WindowDataset(Utterances(annotation, None, text), np.arange(N), WS)[0].audio is None
    assert WindowDataset(Utterances(annotation, LogMels.from_waves(WAVES), None), np.arange(N), WS)[0].text is None


def test_windows_need_no_labels(annotation):
    labelled = make_dataset(annotation, train=False)
    unlabelled = Annotation(annotation.ids, annotation.session, annotation.dialogue)
    batch = make_dataset(unlabelled, train=False).__getitems__([3, 7])
    expected = labelled.__getitems__([3, 7])
    assert torch.equal(batch.audio, expected.audio)
    assert torch.equal(batch.text, expected.text)
    assert batch.target == (None, None, None)


# Splits and batches


def test_sessions_are_split_without_overlap():
    present = set(range(1, 21))
    assert training_sessions(present, [13, 14, 15, 16], None) == [*range(1, 13), *range(17, 21)]
    assert training_sessions(present, [1, 2], [3, 20]) == list(range(4, 20))


@pytest.fixture
def utterances(preprocessed) -> Utterances:
    options, _ = parse_args(["--data_path", str(preprocessed), "--modality", "text"])
    return load_utterances(options, load_annotations(options.data_path, options.SorL))


def test_windows_of_a_split_are_those_of_its_sessions_and_of_no_other(utterances):
    session = utterances.annotation.session
    splits = ([3, 4, 5, 6], [1, 2])
    train, test = (WindowDataset(utterances, utterances.in_sessions(split), 8) for split in splits)
    assert set(session[train.targets]) == {3, 4, 5, 6}
    assert set(session[test.targets]) == {1, 2}
    for dataset in (train, test):
        seen = dataset.windows[dataset.windows >= 0].unique().numpy()
        assert set(seen) == set(dataset.targets)


def test_training_batches_are_shuffled_and_whole_and_test_batches_in_order_and_all(utterances):
    targets = utterances.in_sessions([1, 2, 3])
    dataset = WindowDataset(utterances, targets, 8)
    order = ShuffledBatches(len(dataset), 8, torch.Generator().manual_seed(0))
    train = shuffled_loader(dataset, order)
    first, second = ([batch.arousal for batch in train] for _ in range(2))
    assert {len(batch) for batch in first} == {8}
    assert len(first) == len(dataset) // 8
    in_order = torch.cat([batch.arousal for batch in ordered_loader(dataset, 8)])
    assert in_order[:, 0].tolist() == utterances.annotation.arousal[targets].tolist()
    assert not torch.equal(torch.cat(first), in_order[: len(first) * 8])
    assert not torch.equal(torch.cat(first), torch.cat(second))
