"""Measuring corpora: synthetic ones of any size, in the layout of pre-processed ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import Tensor
from tqdm import trange

from constants import EMOTIONS, HOP_LENGTH, N_EMOTIONS, N_MELS, N_RATERS, SAMPLE_RATE, TEXT_DIM
from corpora.annotation import Annotation, read_annotation
from corpora.wavs import find_wavs
from dataset import Utterances
from features.embeddings import save_embeddings
from features.log_mel import LogMels
from utils import InputError

SECONDS = (2.0, 6.4)  # of an utterance: on average as long as KEMDy19's
IN_A_DIALOGUE = 50


class Corpus(NamedTuple):
    """Utterances with their wavs, random sentence embeddings, and where their log-mels may be kept."""

    annotation: Annotation
    wavs: dict[str, Path]
    text: Tensor
    features: Path


def make_corpus(folder: Path, n: int, seed: int = 0, in_a_session: int = 500) -> None:
    """`n` utterances of shaped noise, in dialogues of at most 50, with their wavs and a `df_speaker.csv`."""
    rng = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    rows = []
    for i in trange(n, desc="making a corpus", unit="wav", disable=None if n > 1000 else True):
        session, place = divmod(i, in_a_session)
        script, number = divmod(place, IN_A_DIALOGUE)
        segment = f"Sess{session + 1:02d}_script{script:02d}_{'FM'[i % 2]}{number:03d}"
        seconds = np.arange(int(rng.uniform(*SECONDS) * SAMPLE_RATE)) / SAMPLE_RATE
        syllables = np.sin(2 * np.pi * rng.uniform(1, 3) * seconds) ** 2
        wave = syllables * np.sin(np.cumsum(rng.normal(0.1, 0.3, len(seconds)))) / 2
        soundfile.write(folder / "wav" / f"{segment}.wav", wave, SAMPLE_RATE, subtype="PCM_16")
        votes = rng.choice(EMOTIONS, N_RATERS).tolist()
        rows.append([segment, max(votes, key=votes.count), *rng.uniform(1, 5, 2), *votes])
    columns = ["Segment ID", "Emotion", "Arousal", "Valence", *(f"Emotion.{n}" for n in range(1, N_RATERS + 1))]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "df_speaker.csv", index=False)


def read_corpus(folder: Path, features: Path) -> Corpus:
    """The speakers' utterances of a pre-processed corpus that have a wav."""
    annotation, (wavs, where) = read_annotation(folder / "df_speaker.csv"), find_wavs(folder)
    there = np.array([segment in wavs for segment in annotation.ids])
    if not there.any():
        raise InputError(f"{where}: has no wav of {folder / 'df_speaker.csv'}")
    ids = [segment for segment in annotation.ids if segment in wavs]
    arrays = {name: value[there] for name, value in vars(annotation).items() if name not in ("ids", "text")}
    text = torch.randn(len(ids), TEXT_DIM, generator=torch.Generator().manual_seed(0))
    return Corpus(Annotation(ids, **arrays), {segment: wavs[segment] for segment in ids}, text, features)


def write_embeddings(folder: Path, corpus: Corpus) -> None:
    """The corpus's sentence embeddings where main.py looks for them."""
    vectors = {f"{segment}.txt": row.numpy() for segment, row in zip(corpus.annotation.ids, corpus.text, strict=True)}
    with (folder / f"embedding_{TEXT_DIM}.npy").open("wb") as file:
        save_embeddings(file, vectors)


def random_utterances(n: int) -> Utterances:
    """`n` utterances of random frames and embeddings in memory, in no time; no wavs."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    length = torch.from_numpy((rng.uniform(*SECONDS, n) * SAMPLE_RATE).astype(np.int64)) // HOP_LENGTH + 1
    start = 1 + length.cumsum(0) - length  # the first row is silence
    frames = torch.empty(1 + int(length.sum()), N_MELS, dtype=torch.float16).normal_(-30, 15, generator=generator)
    frames[0] = -100  # dB
    log_mels = LogMels((frames, torch.stack([start, length, length], 1), {}))
    soft = rng.dirichlet(np.ones(N_EMOTIONS), n).astype(np.float32)
    majority = np.eye(N_EMOTIONS, dtype=np.float32)[soft.argmax(1)]
    ratings = rng.uniform(1, 5, (2, n)).astype(np.float32)
    numbers = np.arange(n) // IN_A_DIALOGUE
    ids = [f"Sess01_script01_F{i:03d}" for i in range(n)]
    return Utterances(
        Annotation(ids, numbers, numbers, majority, soft, *ratings),
        log_mels,
        torch.randn(n, TEXT_DIM, generator=generator),
    )
