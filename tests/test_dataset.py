import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from corpora.annotation import Annotation, read_annotation
from corpora.kemdy19 import FOLDS
from corpora.wavs import find_wavs, read_wav
from dataset import (
    ShuffledBatches,
    Utterances,
    WindowDataset,
    load_annotation,
    load_utterances,
    make_windows,
    ordered_loader,
    shuffled_loader,
    training_sessions,
)
from features.log_mel import LogMels, central_crop, compute_frames, decibel_frames, log_mel, standardise, stored_frames
from model import MATE
from training.options import parse_args
from utils import InputError

# Log-mel


def whole_log_mel(wave: np.ndarray) -> torch.Tensor:
    """The log-mel of a whole 10 s at once: pad to 10 s, transform, dB, standardise."""
    padded = torch.zeros(160_000)
    padded[: len(wave)] = torch.from_numpy(wave)
    mel = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=2048, hop_length=512, f_min=30, f_max=8000, n_mels=229, power=2
    )(padded)
    return standardise(10 * torch.log10(mel.clamp(min=1e-10)))


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("name", ["short", "exact", "silence", "tiny"])
def test_log_mel_equals_the_published_one(name, reference):
    arrays = reference("log_mel.npz")
    mel = log_mel(arrays[f"wave_{name}"].astype(np.float32) / 32768)
    assert mel.shape == (229, 313)
    np.testing.assert_allclose(mel, arrays[f"mel_{name}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 1024, 1025, 50_000, 157_000, 158_500, 159_999, 160_000])
def test_frames_left_out_are_the_silent_ones(samples):
    wave = noise(samples)
    torch.testing.assert_close(log_mel(wave), whole_log_mel(wave), rtol=0, atol=1e-5)


def test_long_utterance_gives_its_central_10_seconds_in_evaluation():
    wave = noise(200_001)
    torch.testing.assert_close(log_mel(wave), whole_log_mel(wave[20_000:180_000]), rtol=0, atol=1e-5)
    assert len(central_crop(wave)) == 160_000


def test_long_utterance_gives_a_crop_of_its_own_frames_in_training():
    wave = noise(200_000)
    features = LogMels([wave, noise(30_000)])
    frames = decibel_frames(wave)
    assert len(frames) == 200_000 // 512 + 1
    for crop, start in ((0.0, 0), (0.5, 39), (0.999999, len(frames) - 313)):
        mel = features.spectrograms(torch.tensor([0]), torch.tensor([crop]))[0]
        torch.testing.assert_close(mel, standardise(frames[start : start + 313].T))
    short = torch.tensor([1])
    assert torch.equal(features.spectrograms(short, torch.tensor([0.7])), features.spectrograms(short))


def write_corpus(folder: Path, waves: list[np.ndarray]) -> dict[str, Path]:
    folder.mkdir()
    wavs = {f"Sess01_script01_F{number:03d}": folder / f"{number}.wav" for number in range(len(waves))}
    for path, wave in zip(wavs.values(), waves, strict=True):
        soundfile.write(path, wave, 16_000, subtype="FLOAT")
    return wavs


def test_a_feature_store_gives_the_log_mels_of_its_wavs(tmp_path):
    waves = [noise(30_000), noise(200_001), noise(160_000), noise(1)]
    wavs = write_corpus(tmp_path / "wav", waves)
    ids = [*wavs, "Sess01_script01_F999"]
    everything, crop = torch.arange(5), torch.full((5,), 0.7)
    plain = LogMels([*waves, None])
    for dtype, tolerance in ((torch.float32, 0), (torch.float16, 3e-2)):
        for _ in range(2):  # built, and read again
            log_mels = LogMels(stored_frames(tmp_path / "features", wavs, ids, 16_000, dtype, progress=False))
            assert log_mels.frames.dtype == dtype
            for crops in (None, crop):
                ours, expected = (features.spectrograms(everything, crops) for features in (log_mels, plain))
                torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
            assert not log_mels.spectrograms(everything)[4].any()


def test_a_folder_that_cannot_be_written_to_costs_a_warning_and_the_time(tmp_path):
    wavs = write_corpus(tmp_path / "wav", [noise(30_000)])
    (tmp_path / "features").touch()
    with pytest.warns(UserWarning, match=r"features: log-mels cannot be kept there \(File exists\)") as warned:
        frames = stored_frames(tmp_path / "features", wavs, list(wavs), 16_000, torch.float32, progress=False)
    assert len(warned) == 1
    assert torch.equal(
        LogMels(frames).spectrograms(torch.tensor([0])), LogMels([noise(30_000)]).spectrograms(torch.tensor([0]))
    )


def test_wavs_that_cannot_be_used_are_told_and_count_as_having_none(tmp_path):
    wavs = write_corpus(tmp_path / "wav", [noise(3000), noise(3000), noise(3000)])
    bad = wavs["Sess01_script01_F001"]
    bad.write_bytes(b"no sound")
    for frames in (
        [*wavs.values()],
        stored_frames(tmp_path / "features", wavs, list(wavs), 16_000, torch.float32, progress=False),
    ):
        log_mels = LogMels(frames)
        assert list(log_mels.faults) == [1]
        assert log_mels.faults[1].startswith(f"{bad}: not readable")
        assert log_mels.spectrograms(torch.arange(3)).any(dim=(1, 2)).tolist() == [True, False, True]


def test_frames_are_computed_a_bounded_number_ahead(monkeypatch):
    read = []

    class Waves(list):
        def __iter__(self):
            for number in range(10_000):
                read.append(number)
                yield noise(10)

    frames = compute_frames(Waves([noise(10)] * 10_000), 16_000, torch.float16, progress=False)
    for _ in range(3):
        next(frames)
    frames.close()
    assert len(read) <= 8 * os.cpu_count() + 3


def test_half_precision_keeps_the_probabilities(preprocessed):
    from test_model import reference_weights

    annotation = read_annotation(preprocessed / "df_speaker.csv")
    wavs, _ = find_wavs(preprocessed)
    paths = [wavs.get(segment) for segment in annotation.ids[:24]]
    model = MATE(hidden_size=32)
    model.load_state_dict(reference_weights(model))
    audio = []
    for dtype in (torch.float32, torch.float16):
        log_mels = LogMels(paths, dtype=dtype)
        audio.append(log_mels.spectrograms(torch.arange(24)).unfold(0, 8, 4).permute(0, 3, 1, 2))
    with torch.inference_mode():
        exact, half = (model.eval()(a, torch.zeros(len(a), 8, 768))[0] for a in audio)
    assert 0 < (exact - half).abs().max() < 2e-3


def test_standardise_has_mean_0_and_variance_1_of_each_spectrogram():
    mel = standardise(torch.randn(2, 229, 313) * 7 - 40)
    assert mel.mean(dim=(1, 2)).abs().max() < 1e-4
    assert (mel.var(dim=(1, 2), correction=0) - 1).abs().max() < 1e-4


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
    utterances = Utterances(annotation, LogMels(WAVES), text)
    return WindowDataset(utterances, targets, WS, soft_targets=train, crop_seed=seed if train else None)


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
    utterances = Utterances(annotation, LogMels(WAVES), None)
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
    assert WindowDataset(Utterances(annotation, LogMels(WAVES), None), np.arange(N), WS)[0].text is None


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
    return load_utterances(options, load_annotation(options))


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
