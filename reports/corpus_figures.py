"""Figures of a corpus: plots and tables of preprocessing.ipynb from the preprocessed tables and audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from constants import EMOTIONS, MAX_SECONDS, N_MELS, SAMPLE_RATE
from corpora.utterances import shares
from corpora.wavs import inspect_sound, read_wav, wav_fault
from features.log_mel import LogMels, log_mel

TIE = "tie"  # several emotions share the most votes
LABELS = [*EMOTIONS, TIE]
PALETTE = ["#009E73", "#D55E00", "#0072B2", "#CC79A7", "#56B4E9", "#666666", "#E69F00", "#D9D9D9"]  # Okabe, Ito
COLOURS = dict(zip(LABELS, PALETTE, strict=True))
ROLES = ["#0072B2", "#E69F00"]  # colours of speaker and listener


def use_style() -> None:
    """Set the style of all figures; tables show all rows."""
    pd.set_option("display.max_rows", None, "display.max_colwidth", None)
    plt.rcParams.update({"figure.constrained_layout.use": True, "figure.facecolor": "white", "figure.dpi": 80})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def add_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `read_utterances` with ties as one label; `agreement` is the largest share of votes."""
    emotion = pd.Categorical(table["emotion"].where(~table["emotion"].str.contains(";"), TIE), LABELS)
    return table.assign(emotion=emotion, agreement=shares(table).max(axis=1).astype(float))


def plot_counts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Plot the labels of each session by role; returns the counts."""
    by_role = {role: pd.crosstab(table["session"], table["emotion"], dropna=False) for role, table in tables.items()}
    counts = pd.concat(by_role, axis=1, names=["role"])
    size = (11, 1.5 + 0.22 * len(counts))
    figure, panels = plt.subplots(1, len(tables), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes, role in zip(panels[0], tables, strict=True):
        counts[role].plot.barh(ax=axes, stacked=True, width=0.85, color=COLOURS, legend=False)
        axes.set(title=f"{role}: {len(tables[role]):,} utterances", xlabel="utterances", ylabel="session")
    panels[0, 0].invert_yaxis()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LABELS))
    plt.show()
    counts.loc["all"] = counts.sum()
    return counts


def plot_agreement(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Plot the rater agreement by role; returns the mean agreement by emotion in percent."""
    votes = {role: table["agreement"].mul(10).round() * 10 for role, table in tables.items()}
    found = pd.DataFrame({role: of_role.value_counts(normalize=True) * 100 for role, of_role in votes.items()})
    found.index = found.index.astype(int)
    labels = {"xlabel": "votes for the majority label (%)", "ylabel": "utterances (%)"}
    found.plot.bar(figsize=(7, 3.6), rot=0, color=ROLES, title="Rater agreement", **labels)
    plt.show()
    means = {role: table.groupby("emotion", observed=False)["agreement"].mean() for role, table in tables.items()}
    return (pd.DataFrame(means).T * 100).round(1)


def plot_affect(table: pd.DataFrame) -> None:
    """Plot mean arousal against mean valence of each utterance, and the means of each emotion."""
    jitter = np.random.default_rng(0).uniform(-0.05, 0.05, size=(2, len(table)))
    colours = table["emotion"].map(COLOURS).astype(str)
    figure, axes = plt.subplots(figsize=(7, 5.5))
    alpha = np.clip(60 / len(table) ** 0.6, 0.2, 0.8)
    axes.scatter(table["valence"] + jitter[0], table["arousal"] + jitter[1], s=9, c=colours, alpha=alpha, linewidths=0)
    for emotion, own in table[table["emotion"] != TIE].groupby("emotion", observed=True):
        mean = own["valence"].mean(), own["arousal"].mean()
        axes.plot(*mean, "X", color=COLOURS[emotion], markersize=12, markeredgecolor="black", label=emotion)
    axes.set(xlabel="valence (1 to 5)", ylabel="arousal (1 to 5)", xticks=range(1, 6), yticks=range(1, 6))
    figure.legend(loc="outside right center")
    plt.show()


def durations(paths: Mapping[str, Path]) -> pd.Series:
    """Duration (s) of each usable wav by segment id; the others are listed in problems.csv."""
    bar = tqdm(paths.items(), desc="durations", unit="wav", delay=2)
    return pd.Series({name: inspect_sound(path)[0] for name, path in bar if not wav_fault(path)}, dtype=float)


def plot_durations(seconds: pd.Series) -> pd.DataFrame:
    """Plot a histogram of the durations; returns their quartiles."""
    beyond = seconds > MAX_SECONDS
    title = f"{beyond.sum():,} of {len(seconds):,} utterances ({beyond.mean():.1%}) are longer than {MAX_SECONDS} s"
    axes = seconds.plot.hist(bins=np.arange(0, seconds.max() + 1, 0.5), figsize=(9, 3.6), color="#56B4E9", title=title)
    axes.axvline(MAX_SECONDS, color="#222222", linestyle="--", linewidth=1)
    axes.set(xlabel="duration (s)", ylabel="utterances")
    plt.show()
    return seconds.describe().round(2).rename("duration (s)").to_frame().T.astype({"count": int})


def plot_sound(path: Path, title: str) -> None:
    """Plot the waveform of a wav, and the standardised log-mel of its central 10 s, the input of the model."""
    wave = read_wav(path)
    start = max(0, len(wave) / SAMPLE_RATE - MAX_SECONDS) / 2
    spectrogram = LogMels([log_mel(wave)]).spectrograms(torch.tensor([[0]]))[0, 0]
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 4.5), sharex=True)
    above.plot(np.arange(len(wave)) / SAMPLE_RATE, wave, linewidth=0.5)
    above.set(ylabel="amplitude", ylim=(-1, 1), title=title)
    extent = (start, start + MAX_SECONDS, 0, N_MELS)
    image = below.imshow(spectrogram, cmap="magma", origin="lower", aspect="auto", extent=extent, vmin=-1, vmax=2)
    below.set(ylabel="mel band", xlabel="time (s)")
    figure.colorbar(image, ax=below, label="standardised log-mel")
    plt.show()
