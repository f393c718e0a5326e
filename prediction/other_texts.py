"""Other texts: test a run with the transcripts of a recogniser instead of those of the corpus."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from corpora.transcripts import clean_transcripts
from corpora.utterances import read_cells
from corpora.wavs import find_wavs, wav_fault
from dataset import MISSING_LIMIT, WindowDataset
from prediction.predictor import check_missing
from prediction.runs import load_encoder
from prediction.transcribe import Recogniser
from training.devices import on_main_process
from training.record import TrainedRun
from utils import InputError, atomic_write


def read_texts(path: Path) -> dict[str, str]:
    """Texts by id, from a CSV with the columns id and text; `InputError` for a missing column or duplicate id."""
    cells = read_cells(path, ("id", "text"))
    if (twice := cells["id"].duplicated()).any():
        raise InputError(f"{path}, row {twice.idxmax() + 2}: duplicate id {cells['id'][twice.idxmax()]}")
    return dict(zip(cells["id"], cells["text"], strict=True))


def transcribe_wavs(path: Path, ids: Sequence[str], options: Namespace, device: torch.device) -> None:
    """Transcribe the usable wavs of ids that are not in a CSV of id,text yet, and add them to it."""
    texts, wavs = read_texts(path) if path.exists() else {}, find_wavs(options.data_path, options.audio_path)
    missing = [name for name in ids if name not in texts and name in wavs and wav_fault(wavs[name]) is None]
    recogniser = Recogniser(options.transcribe, "ko", device)
    for name in tqdm(missing, "transcribing", unit="utterance"):
        texts[name] = " ".join(segment["text"] for segment in recogniser.transcribe(wavs[name]))
        with atomic_write(path) as file:
            csv.writer(file).writerows([("id", "text"), *texts.items()])


def with_other_texts(
    run: TrainedRun, options: Namespace, windows: WindowDataset, accelerator: Accelerator, text_encoder: str | None
) -> WindowDataset:
    """Test windows with embeddings of the texts of `--texts` or `--transcribe`; zeros for an utterance without text.

    `--transcribe` writes the texts to `--texts`, or to a file in the run folder with the name of the Whisper model.
    `text_encoder` is the folder of the run's text encoder, if it was moved. Raises `InputError` if no utterance has a
    text, or the run does not use text.
    """
    if not run.model.uses_text:
        raise InputError(f"--texts, --transcribe: the run {run.folder} does not use text")
    table, device = windows.table, next(run.model.parameters()).device
    rows = np.flatnonzero(table["session"].isin(options.test_split))
    ids = table["id"].iloc[rows].tolist()
    path = options.texts or run.folder / f"texts-{Path(options.transcribe).name}.csv"
    if options.transcribe:
        on_main_process(accelerator, lambda: transcribe_wavs(path, ids, options, device))
    texts = read_texts(path)
    lacking = [name for name in ids if name not in texts]
    if len(lacking) > MISSING_LIMIT * len(ids):
        raise InputError(f"{path}: {len(lacking)} of {len(ids)} test utterances have no text, such as {lacking[0]}")
    check_missing(f"a transcript in {path}", lacking, len(ids))
    found = [row for row, name in zip(rows, ids, strict=True) if name in texts]
    encoder = load_encoder("text", {str(run.folder): run}, text_encoder, device)
    embeddings = windows.features.text.clone()
    embeddings[rows] = 0
    vectors = encoder.embed(clean_transcripts([texts[name] for name in ids if name in texts]))
    embeddings[found] = torch.from_numpy(vectors).to(embeddings)
    features = replace(windows.features, text=embeddings)
    return WindowDataset(table, features, windows.targets, options.ws, speakers=options.speakers)
