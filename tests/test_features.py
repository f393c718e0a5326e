"""Log-mels against the reference and a plain computation, and the store that keeps features of a corpus."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

import corpora.wavs
from features.log_mel import LogMels, decibel_frames, log_mel
from features.store import FeatureStore, try_to_read, wavs_and_hashes
from utils import InputError


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def plain_log_mel(wave: np.ndarray) -> Tensor:
    """The standardised log-mel of 10 s, step by step in float64: shape = (229, 313)."""
    padded = torch.from_numpy(np.pad(wave, (0, 160_000 - len(wave))))
    transform = torchaudio.transforms.MelSpectrogram(16_000, 2048, hop_length=512, f_min=30, f_max=8000, n_mels=229)
    return plain_standardise(10 * torch.log10(transform(padded).clamp(min=1e-10)))


def plain_standardise(decibels: Tensor) -> Tensor:
    exact = decibels.double()
    return ((exact - exact.mean()) / (exact.var(correction=0) + 1e-5).sqrt()).float()


def exact_log_mels(waves: list[np.ndarray]) -> LogMels:
    """LogMels with frames in float32: what is left out, cropped and standardised shows without their rounding."""
    pieces = []
    for wave in waves:
        start = max(0, (len(wave) - 160_000) // 2)
        parts = [wave, wave[start : start + 160_000]] if len(wave) > 160_000 else [wave]
        pieces.append(torch.cat([decibel_frames(part) for part in parts]))
        assert torch.equal(log_mel(wave), pieces[-1].half())
    log_mels = LogMels([piece.half() for piece in pieces])
    log_mels.frames = torch.cat([log_mels.frames[:1].float(), *pieces])
    log_mels._standardise(torch.arange(len(pieces)))
    return log_mels


def one(log_mels: LogMels, number: int = 0) -> Tensor:
    return log_mels.spectrograms(torch.tensor([[number]]))[0, 0]


@pytest.mark.parametrize("name", ["short", "exact", "silence", "tiny"])
def test_log_mel_equals_the_published_one(name, reference):
    arrays = reference("log_mel.npz")
    wave = arrays[f"wave_{name}"].astype(np.float32) / 32768
    mel = one(exact_log_mels([wave]))
    assert mel.shape == (229, 313)
    np.testing.assert_allclose(mel, arrays[f"mel_{name}"], rtol=0, atol=1e-4)
    if name != "silence":
        np.testing.assert_allclose(one(LogMels([log_mel(wave)])), arrays[f"mel_{name}"], rtol=0, atol=5e-3)


@pytest.mark.parametrize("samples", [0, 1, 511, 512, 1024, 1025, 50_000, 157_000, 158_500, 159_999, 160_000])
def test_frames_left_out_are_the_silent_ones(samples):
    torch.testing.assert_close(one(exact_log_mels([noise(samples)])), plain_log_mel(noise(samples)), rtol=0, atol=1e-5)


def test_a_long_utterance_gives_its_central_10_seconds_or_a_crop_of_its_frames():
    wave = noise(200_001)
    log_mels = exact_log_mels([wave, noise(30_000)])
    frames = decibel_frames(wave)
    assert len(frames) == 200_001 // 512 + 1
    for place, start in ((0.0, 0), (0.5, 39), (0.999999, len(frames) - 313)):
        cropped = log_mels.cropped(torch.tensor([place, 0.7]))
        torch.testing.assert_close(one(cropped), plain_standardise(frames[start : start + 313].T), rtol=0, atol=1e-5)
        assert torch.equal(one(cropped, 1), one(log_mels, 1))
    torch.testing.assert_close(one(log_mels), plain_log_mel(wave[20_000:180_000]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_are_channels_last_and_padding_is_exactly_zero(dtype):
    log_mels = LogMels([log_mel(noise(30_000)), None, log_mel(noise(200_000, 1))])
    windows = torch.tensor([[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [2, 0, 0], [1, 1, 1]])
    audio = log_mels.spectrograms(windows, dtype)
    assert (audio.shape, audio.dtype) == ((5, 3, 229, 313), dtype)
    assert audio.is_contiguous(memory_format=torch.channels_last)
    for found, number in zip(audio.flatten(0, 1), windows.flatten().tolist(), strict=True):
        assert torch.equal(found, one(log_mels, number).to(dtype))
        assert found.any() == (number not in (-1, 1))


# The store


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A folder of six wavs in two sessions, one of them over 10 s."""
    (tmp_path / "wav").mkdir()
    for number in range(6):
        samples = 50_000 if number == 4 else 3_000 + 500 * number
        soundfile.write(tmp_path / "wav" / f"u{number}.wav", noise(samples, number), 4_000, subtype="FLOAT")
    return tmp_path


TABLE = pd.DataFrame({"id": [f"u{number}" for number in range(7)], "session": [1, 1, 1, 2, 2, 2, 2]})  # u6 has no wav
FILES = ["Session01.safetensors", "Session02.safetensors"]


class Reading:
    """One reading of the corpus's store; `computed` are the ids that were computed for it."""

    def __init__(self, corpus: Path, sr: int = 4_000, table: pd.DataFrame = TABLE, stop: str = "") -> None:
        self.computed: list[str] = []

        def compute(paths: list[Path]) -> Iterator[Tensor | InputError]:
            for path in paths:
                if path.stem == stop:
                    raise KeyboardInterrupt
                self.computed.append(path.stem)
                wave = try_to_read(path, sr)
                yield wave if isinstance(wave, InputError) else log_mel(wave, sr)

        wavs = wavs_and_hashes(corpus, None, table)
        self.store = FeatureStore(corpus / "features" / "kind", {"sr": sr}, table, *wavs)
        self.store.fill(compute, "log-mels")
        self.features = [None if found is None else found.clone() for found in self.store]  # no longer of the file


def test_features_are_computed_once_and_follow_the_content_of_the_wavs(corpus):
    first = Reading(corpus)
    assert first.computed == ["u0", "u1", "u2", "u3", "u4", "u5"]
    for number in range(6):
        wave = soundfile.read(corpus / "wav" / f"u{number}.wav", dtype="float32")[0]
        assert torch.equal(first.features[number], log_mel(wave, 4_000))
    assert first.features[6] is None
    for path in (corpus / "wav").iterdir():  # another time, and the same content
        path.touch()
    backwards = Reading(corpus, table=TABLE[::-1])
    assert backwards.computed == []
    for found, expected in zip(backwards.features[::-1], first.features, strict=True):
        assert (found is None and expected is None) or torch.equal(found, expected)
    before = (corpus / "features" / "kind" / FILES[0]).read_bytes()
    soundfile.write(corpus / "wav" / "u4.wav", noise(50_000, 9), 4_000, subtype="FLOAT")  # of the same size
    soundfile.write(corpus / "wav" / "u6.wav", noise(2_000, 6), 4_000, subtype="FLOAT")
    changed = Reading(corpus)
    assert changed.computed == ["u4", "u6"]
    assert torch.equal(changed.features[4], log_mel(noise(50_000, 9), 4_000))
    assert (corpus / "features" / "kind" / FILES[0]).read_bytes() == before  # its session has not changed
    (corpus / "wav" / "u4.wav").unlink()
    assert Reading(corpus).features[4] is None
    assert Reading(corpus, sr=2_000).computed == ["u0", "u1", "u2", "u3", "u5", "u6"]


def test_the_utterances_of_another_table_stay_in_the_file_of_their_session(corpus):
    assert Reading(corpus, table=TABLE[:5]).computed == ["u0", "u1", "u2", "u3", "u4"]
    assert Reading(corpus, table=TABLE[5:]).computed == ["u5"]
    assert Reading(corpus).computed == []


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 10),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "text": lambda path: path.write_text('{"a": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_computed_anew_with_a_warning(corpus, damage):
    whole = Reading(corpus).features
    DAMAGES[damage](corpus / "features" / "kind" / FILES[1])
    with pytest.warns(UserWarning, match=r"Session02\.safetensors"):
        again = Reading(corpus)
    assert again.computed == ["u3", "u4", "u5"]
    assert torch.equal(again.features[4], whole[4])


def test_an_interrupted_computation_resumes_after_its_last_whole_session(corpus):
    with pytest.raises(KeyboardInterrupt):
        Reading(corpus, stop="u4")
    assert Reading(corpus).computed == ["u3", "u4", "u5"]


def test_processes_that_start_together_compute_each_utterance_once(corpus):
    folder = corpus / "features" / "kind"
    folder.mkdir(parents=True)
    (folder / ".Session01.safetensors.0123abcd.part").touch()  # of a killed process
    with ThreadPoolExecutor(2) as pool:  # two files that are open lock one another out in one process too
        assert sorted(len(reading.computed) for reading in pool.map(Reading, [corpus] * 2)) == [0, 6]
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_a_wav_that_may_not_be_read_is_a_fault_and_the_store_is_written_once(corpus, monkeypatch):
    digest = corpora.wavs.digest_file

    def refuse(path: Path) -> str:
        if path.stem == "u1":
            raise PermissionError(13, "Permission denied", str(path))
        return digest(path)

    monkeypatch.setattr(corpora.wavs, "digest_file", refuse)
    (corpus / "wav" / "u1.wav").write_bytes(b"no sound")
    assert list(Reading(corpus).store.faults) == ["u1"]
    written = {path: path.stat().st_ino for path in (corpus / "features/kind").iterdir()}
    found = Reading(corpus)
    assert (found.computed, list(found.store.faults), found.features[1]) == ([], ["u1"], None)
    assert {path: path.stat().st_ino for path in (corpus / "features/kind").iterdir()} == written


def test_a_wav_that_cannot_be_used_is_a_fault_until_it_changes(corpus):
    wav = corpus / "wav" / "u1.wav"
    good = wav.read_bytes()
    wav.write_bytes(b"no sound")
    for computed in (["u0", "u1", "u2", "u3", "u4", "u5"], []):
        found = Reading(corpus)
        assert found.computed == computed
        assert list(found.store.faults) == ["u1"]
        assert "u1.wav" in found.store.faults["u1"]
        assert found.features[1] is None
    wav.write_bytes(good)
    assert Reading(corpus).computed == ["u1"]
