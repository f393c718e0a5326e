"""Log-mels kept on a GPU, here on a CPU through the same code, against those that are made for each batch."""

import numpy as np
import pytest
import torch

import dataset
from corpora.annotation import Annotation
from dataset import Utterances, WindowDataset
from features.log_mel import LogMels
from features.standardised import StandardisedFrames, keep_standardised
from model import MATE

SECONDS = [2.0, None, 9.99, 10.0, 10.5, 14.0, 0.1, 25.0]
N = len(SECONDS)


@pytest.fixture(scope="module")
def log_mels() -> LogMels:
    rng = np.random.default_rng(0)
    waves = [s and rng.normal(0, 0.1, int(s * 16_000)).astype(np.float32) for s in SECONDS]
    return LogMels.from_waves(waves, dtype=torch.float16)


def windows(log_mels: LogMels, dtype: torch.dtype) -> WindowDataset:
    numbers = np.zeros(N, dtype=np.int64)
    utterances = Utterances(Annotation([str(i) for i in range(N)], numbers, numbers), log_mels, None)
    return WindowDataset(utterances, np.arange(N), 4, crop_seed=3, audio_dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_batches_of_kept_log_mels_are_those_made_anew_in_every_epoch(log_mels, monkeypatch, dtype):
    anew = windows(log_mels, dtype)
    monkeypatch.setattr(dataset, "keep_standardised", StandardisedFrames)
    kept = windows(log_mels, dtype)
    seen = []
    for epoch in (0, 1, 2):
        anew.set_epoch(epoch)
        kept.set_epoch(epoch)
        batch, expected = (which.__getitems__([7, 0, 3, 2, 5]).audio for which in (kept, anew))
        assert torch.equal(batch, expected)
        assert batch.stride() == expected.stride()
        assert batch.is_contiguous(memory_format=torch.channels_last)
        seen.append(batch)
    assert not torch.equal(seen[1], seen[2])


def test_of_an_utterance_its_sound_and_a_frame_of_silence_are_kept(log_mels):
    kept = StandardisedFrames(log_mels, torch.bfloat16)
    assert kept.n_rows.tolist() == [*((log_mels.length + 1).clamp(max=313)).tolist(), 1]
    assert len(kept.frames) == kept.n_rows.sum() < 0.7 * N * 313
    assert not kept.frames[-1].any()
    assert [SECONDS[i] for i in kept.longer] == [10.5, 14.0, 25.0]


def test_bfloat16_moves_a_prediction_little(log_mels):
    torch.manual_seed(0)
    model = MATE(hidden_size=16, num_layers=1, ws=4, modality="audio").eval()
    numbers = windows(log_mels, torch.float32).windows
    with torch.no_grad():
        exact, rounded = (
            model(StandardisedFrames(log_mels, dtype).of_windows(numbers).float(), None)[0]
            for dtype in (torch.float32, torch.bfloat16)
        )
    assert 0 < (exact - rounded).abs().max() < 2e-3


def test_nothing_is_kept_on_a_cpu_or_in_float32_or_where_it_does_not_fit(log_mels, monkeypatch):
    assert keep_standardised(log_mels, torch.bfloat16) is None
    cuda = torch.device("cuda:0")
    monkeypatch.setattr("features.standardised.StandardisedFrames", lambda *_: "kept")
    pretended = LogMels((log_mels.frames, torch.stack([log_mels.start, log_mels.length, log_mels.length], 1), {}))
    pretended.frames = type("Frames", (), {"device": cuda})()
    n_bytes = 229 * 2 * int((log_mels.length + 1).clamp(max=313).sum())
    for free, dtype, expected in (
        (4 * n_bytes, torch.bfloat16, "kept"),
        (4 * n_bytes - 4, torch.bfloat16, None),
        (4 * n_bytes, torch.float32, None),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 80 << 30))
        assert keep_standardised(pretended, dtype) == expected
