import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from conftest import ROOT

from corpora.annotation import read_annotation
from corpora.wavs import find_wavs
from features.log_mel import LogMels, central_crop, compute_frames, decibel_frames, log_mel, open_store, standardise
from model import MATE


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
    log_mels = LogMels.from_waves([wave, noise(30_000)])
    frames = decibel_frames(wave)
    assert len(frames) == 200_000 // 512 + 1
    for crop, start in ((0.0, 0), (0.5, 39), (0.999999, len(frames) - 313)):
        mel = log_mels.spectrograms(torch.tensor([0]), torch.tensor([crop]))[0]
        torch.testing.assert_close(mel, standardise(frames[start : start + 313].T))
    short = torch.tensor([1])
    assert torch.equal(log_mels.spectrograms(short, torch.tensor([0.7])), log_mels.spectrograms(short))


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
    plain = LogMels.from_waves([*waves, None])
    for dtype, tolerance in ((torch.float32, 0), (torch.float16, 3e-2)):
        for _ in range(2):  # built, and read again
            log_mels = LogMels(open_store(tmp_path / "features", wavs, ids, 16_000, dtype, quiet=True))
            assert log_mels.frames.dtype == dtype
            for crops in (None, crop):
                ours, expected = (features.spectrograms(everything, crops) for features in (log_mels, plain))
                torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)
            assert not log_mels.spectrograms(everything)[4].any()


def test_a_folder_that_cannot_be_written_to_costs_a_warning_and_the_time(tmp_path):
    wavs = write_corpus(tmp_path / "wav", [noise(30_000)])
    (tmp_path / "features").touch()
    with pytest.warns(UserWarning, match=r"features: log-mels cannot be kept there \(File exists\)") as warned:
        frames = open_store(tmp_path / "features", wavs, list(wavs), 16_000, torch.float32, quiet=True)
    assert len(warned) == 1
    assert torch.equal(
        LogMels(frames).spectrograms(torch.tensor([0])),
        LogMels.from_waves([noise(30_000)]).spectrograms(torch.tensor([0])),
    )


def test_wavs_that_cannot_be_used_are_named_and_count_as_having_none(tmp_path):
    wavs = write_corpus(tmp_path / "wav", [noise(3000), noise(3000), noise(3000)])
    bad = wavs["Sess01_script01_F001"]
    bad.write_bytes(b"no sound")
    stored = open_store(tmp_path / "features", wavs, list(wavs), 16_000, torch.float32, quiet=True)
    for log_mels in (LogMels.from_waves(list(wavs.values())), LogMels(stored)):
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

    frames = compute_frames(Waves([noise(10)] * 10_000), 16_000, torch.float16, quiet=True)
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
        log_mels = LogMels.from_waves(paths, dtype=dtype)
        audio.append(log_mels.spectrograms(torch.arange(24)).unfold(0, 8, 4).permute(0, 3, 1, 2))
    with torch.inference_mode():
        exact, half = (model.eval()(a, torch.zeros(len(a), 8, 768))[0] for a in audio)
    assert 0 < (exact - half).abs().max() < 2e-3


def test_standardise_has_mean_0_and_variance_1_of_each_spectrogram():
    mel = standardise(torch.randn(2, 229, 313) * 7 - 40)
    assert mel.mean(dim=(1, 2)).abs().max() < 1e-4
    assert (mel.var(dim=(1, 2), correction=0) - 1).abs().max() < 1e-4


# What the stored frames depend on

PROGRAM = ("features", "corpora", "constants.py", "utils.py")
OPEN_STORE = """
import sys
from pathlib import Path
import torch
from features.log_mel import open_store
folder = Path(sys.argv[1])
wavs = {"Sess01_script01_F001": folder / "wav" / "0.wav"}
frames = open_store(folder / "features", wavs, list(wavs), 16_000, torch.float32, quiet=False)
print(frames.values[1:].mean().item())
"""


def open_store_of(program: Path, folder: Path) -> tuple[float, bool]:
    """Mean of the frames that a copy of the program gets from its store, and whether it computed any."""
    call = [sys.executable, "-c", OPEN_STORE, str(folder)]
    done = subprocess.run(call, cwd=program, env=os.environ | {"PYTHONPATH": str(program)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return float(done.stdout), b"log-mel:" in done.stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_stored_frames_follow_the_code_that_makes_them(tmp_path):
    program = tmp_path / "program"
    program.mkdir()
    for name in PROGRAM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, program / name)
    write_corpus(tmp_path / "wav", [noise(30_000)])

    mean, computed = open_store_of(program, tmp_path)
    assert computed
    (program / "utils.py").write_text((program / "utils.py").read_text(encoding="utf-8") + "\n# makes no frames\n")
    assert open_store_of(program, tmp_path) == (mean, False)
    edit(program / "features" / "log_mel.py", "10 * torch.log10", "20 * torch.log10")
    assert open_store_of(program, tmp_path) == (pytest.approx(2 * mean), True)
    edit(program / "corpora" / "wavs.py", "return librosa.load", "return 10 * librosa.load")
    assert open_store_of(program, tmp_path) == (pytest.approx(2 * (mean + 20), abs=0.1), True)
    edit(program / "constants.py", "F_MAX = 8_000.0", "F_MAX = 4_000.0")
    assert open_store_of(program, tmp_path)[1]
