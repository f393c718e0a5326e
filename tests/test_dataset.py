import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from corpora.kemdy19 import FOLDS
from corpora.wavs import read_wav
from dataset import Annotation, WindowDataset, make_windows, read_annotation
from features.log_mel import LogMels, log_mel
from utils import InputError


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


# Wavs


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(16_000, 1, "PCM_16"), (44_100, 2, "PCM_24"), (8_000, 1, "FLOAT")]
)
def test_wavs_of_any_rate_and_channels_become_16_khz_mono(tmp_path, rate, channels, subtype):
    t = np.arange(rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t)
    # Opposite noise on the two channels vanishes when they are mixed down
    stereo = np.stack([tone + 0.1 * np.sin(9000 * t), tone - 0.1 * np.sin(9000 * t)], axis=1)
    soundfile.write(tmp_path / "a.wav", tone if channels == 1 else stereo, rate, subtype=subtype)
    wave = read_wav(tmp_path / "a.wav")
    assert wave.dtype == np.float32
    assert wave.shape == (16_000,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(wave - expected)[200:-200].max() < 2e-3


def test_wav_that_is_none_is_named(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"a\.wav: not readable as sound .*; replace it or take it away"):
        read_wav(tmp_path / "a.wav")


def test_samples_that_are_not_numbers_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.1, np.nan, 0.1]), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: holds samples that are not numbers"):
        read_wav(tmp_path / "a.wav")


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


# Annotation


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
    return WindowDataset(annotation, targets, WS, LogMels.from_waves(WAVES), text, train, seed if train else None)


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
    arguments = (annotation, np.arange(N), WS, LogMels.from_waves(WAVES), None, True, 0)
    exact, rounded = (
        WindowDataset(*arguments, audio_dtype=dtype).__getitems__(list(range(N))).audio
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
    assert WindowDataset(annotation, np.arange(N), WS, None, text, True)[0].audio is None
    assert WindowDataset(annotation, np.arange(N), WS, LogMels.from_waves(WAVES), None, True)[0].text is None
