"""Recording: a segment is read as its own wav would be, and a long recording takes no memory."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from corpora.wavs import read_wav
from features.log_mel import central_crop
from prediction.recording import Recording
from utils import InputError


def noise(seconds: float, rate: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels)).astype(np.float32)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_any_format_rate_and_number_of_channels(tmp_path, kind):
    path = tmp_path / f"talk.{kind}"
    soundfile.write(path, noise(3, 44100, 2), 44100)
    recording = Recording(path)
    assert recording.duration == pytest.approx(3, abs=0.1)
    wave = recording.read(1.0, 2.5, 16000)
    assert wave.shape == (24000,)
    assert wave.dtype == np.float32


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_a_segment_is_what_its_own_wav_would_be(tmp_path, rate):
    wave = noise(4, rate, 2)
    soundfile.write(tmp_path / "talk.wav", wave, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "part.wav", wave[rate : 3 * rate], rate, subtype="FLOAT")
    found = Recording(tmp_path / "talk.wav").read(1.0, 3.0, 16000)
    np.testing.assert_array_equal(found, read_wav(tmp_path / "part.wav"))


# The middle of some lies between two samples at 16 kHz
@pytest.mark.parametrize(
    ("rate", "n"), [(16000, 164801), (22050, 271217), (22050, 683551), (44100, 542433), (48000, 1488001)]
)
def test_of_a_long_segment_the_central_ten_seconds_of_its_own_wav_are_read(tmp_path, rate, n, monkeypatch):
    wave, first = noise(33, rate, 1), rate + 7
    soundfile.write(tmp_path / "talk.wav", wave, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "part.wav", wave[first : first + n], rate, subtype="FLOAT")
    reads, read = [], soundfile.SoundFile.read

    def counted(file: soundfile.SoundFile, frames: int, *more: object, **settings: object) -> np.ndarray:
        reads.append(frames)
        return read(file, frames, *more, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(soundfile.SoundFile, "read", counted)
        found = Recording(tmp_path / "talk.wav").read(first / rate, (first + n) / rate, 16000)
    assert reads[0] <= 13 * rate
    np.testing.assert_allclose(found, central_crop(read_wav(tmp_path / "part.wav")), rtol=0, atol=1e-6)


def test_what_is_no_recording_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Recording(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("text")
    with pytest.raises(InputError, match="not readable as sound"):
        Recording(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16000)
    with pytest.raises(InputError, match="0 samples"):
        Recording(tmp_path / "empty.wav")
    wave = noise(2, 16000, 1)
    wave[20_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 16000, subtype="FLOAT")
    assert len(Recording(tmp_path / "nan.wav").read(0, 1, 16000)) == 16000
    with pytest.raises(InputError, match=r"not numbers from 1\.00 to 2\.00 s"):
        Recording(tmp_path / "nan.wav").read(1, 2, 16000)


MEASURE = """
import resource, sys
from prediction.predictor import Predictor, Utterance
from prediction.recording import Clip, Recording
recording = Recording(__import__("pathlib").Path(sys.argv[1]))
predictor = Predictor(sys.argv[2], gpu_id="cpu", text_model=sys.argv[3])
predictor.dialogue([Utterance(Clip(recording, 0, 9), "a")] * 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step = recording.duration / 192
predictor.dialogue([Utterance(Clip(recording, n * step, n * step + 9), "a") for n in range(192)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_three_hours_take_no_more_memory_than_a_minute(tmp_path, spoken, preprocessed):
    path = tmp_path / "talk.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(180):
            file.write(np.zeros(60 * 16000, dtype=np.int16))
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, path, spoken, preprocessed / "kobert"]
    grown = int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    sound = 3 * 3600 * 16000 * 4
    assert grown * 1024 < sound / 8
