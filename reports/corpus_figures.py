"""Figures of a corpus: what preprocessing.ipynb draws and lists of the pre-processed tables, sounds and transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.stats import entropy
from tqdm import tqdm

from constants import EMOTIONS, MAX_SECONDS, N_EMOTIONS, N_MELS, SAMPLE_RATE
from corpora.transcripts import clean_transcript
from corpora.utterances import shares
from corpora.wavs import inspect_sound, read_wav, wav_fault
from features.log_mel import LogMels, log_mel

TIE = "tie"  # several emotions share the most votes
LABELS = [*EMOTIONS, TIE]
PALETTE = ["#009E73", "#D55E00", "#0072B2", "#CC79A7", "#56B4E9", "#666666", "#E69F00", "#D9D9D9"]  # Okabe, Ito
COLOURS = dict(zip(LABELS, PALETTE, strict=True))
MARK = {"color": "#222222", "linestyle": "--", "linewidth": 1}  # a line that marks a limit
ROLE_LOOKS = {"speaker": ("#0072B2", -2), "listener": ("#E69F00", 2)}  # colour, and shift of the bars in percent


def use_style() -> None:
    """Set how all figures look; tables are shown whole."""
    pd.set_option("display.max_rows", None, "display.max_colwidth", None)
    plt.rcParams.update({"figure.constrained_layout.use": True, "figure.facecolor": "white", "figure.dpi": 80})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def add_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `read_utterances` with ties as one label, and how much the raters agree.

    `agreement` is the share of votes for the most frequent emotion, `entropy` that of the soft label in bits.
    """
    emotion = pd.Categorical(table["emotion"].where(~table["emotion"].str.contains(";"), TIE), LABELS)
    soft = shares(table)
    return table.assign(emotion=emotion, agreement=soft.max(axis=1), entropy=entropy(soft, base=2, axis=1))


def plot_counts(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Draw the labels of each session, by role; returns the counts."""
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


def plot_agreement(tables: Mapping[str, pd.DataFrame]) -> None:
    """Draw how many raters agree, the entropy of the soft labels, and the agreement by emotion."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
    for role, table in tables.items():
        colour, shift = ROLE_LOOKS[role]
        votes = table["agreement"].mul(10).round().value_counts(normalize=True)
        left.bar(votes.index * 10 + shift, votes * 100, width=4, color=colour, label=role)
        weights = np.full(len(table), 100 / len(table))
        middle.hist(table["entropy"], np.arange(0, 3.1, 0.25), weights=weights, histtype="step", lw=2, color=colour)
        means = table.groupby("emotion", observed=False)["agreement"].mean() * 100
        right.plot(means, means.index, "o", color=colour)
    middle.axvline(np.log2(N_EMOTIONS), **MARK)
    middle.annotate("log₂ 7 ", (np.log2(N_EMOTIONS), 0.9), xycoords=("data", "axes fraction"), ha="right")
    left.set(title="How many raters agree", xlabel="votes for the commonest emotion (%)", ylabel="utterances (%)")
    middle.set(title="Entropy of the soft labels", xlabel="entropy (bits)", ylabel="utterances (%)")
    right.set(title="Agreement by emotion", xlabel="mean share of votes (%)", xlim=(0, 100))
    right.invert_yaxis()
    right.grid(axis="y", color="#e5e5e5")
    figure.legend(loc="outside lower center", ncols=2)
    plt.show()


def plot_by_emotion(table: pd.DataFrame, x: str, y: str, title: str, **options) -> None:
    """Draw a panel for each emotion, over all utterances in grey; the last shows the means of all emotions."""
    figure, panels = plt.subplots(2, 4, figsize=(13, 6.4), sharex=True, sharey=True)
    *panels, together = panels.flat
    alpha = np.clip(60 / len(table) ** 0.6, 0.2, 0.8)
    for axes, emotion in zip(panels, EMOTIONS, strict=True):
        own, colour = table[table["emotion"] == emotion], COLOURS[emotion]
        mean = own[x].mean(), own[y].mean()
        axes.scatter(table[x], table[y], s=4, color="#e3e3e3", linewidths=0, rasterized=True)
        axes.scatter(own[x], own[y], s=9, color=colour, alpha=alpha, linewidths=0)
        axes.plot(*mean, "X", color=colour, markersize=11, markeredgecolor="black", markeredgewidth=1.2)
        together.plot(*mean, "X", color=colour, markersize=11, markeredgecolor="black", label=emotion)
        axes.set_title(f"{emotion} ({len(own):,})")
    together.set_title("means")
    together.set(**options)
    figure.legend(loc="outside right center")
    figure.suptitle(title)
    figure.supxlabel(x)
    figure.supylabel(y)
    plt.show()


def plot_affect(table: pd.DataFrame) -> None:
    """Draw the raters' mean arousal over their mean valence."""
    jitter = np.random.default_rng(0).uniform(-0.05, 0.05, size=(2, len(table)))
    x, y = "valence (1 to 5)", "arousal (1 to 5)"
    affect = table.assign(**{x: table["valence"] + jitter[0], y: table["arousal"] + jitter[1]})
    plane = {"xlim": (0.8, 5.2), "ylim": (0.8, 5.2), "xticks": range(1, 6), "yticks": range(1, 6)}
    plot_by_emotion(affect, x, y, "Raters' means, speakers", **plane)


def durations(paths: Mapping[str, Path]) -> pd.Series:
    """Seconds of each wav by segment id; those that cannot be used are left out, problems.csv names them."""
    bar = tqdm(paths.items(), desc="durations", unit="wav", delay=2)
    return pd.Series({name: inspect_sound(path)[0] for name, path in bar if not wav_fault(path)}, dtype=float)


def plot_durations(seconds: pd.Series) -> pd.DataFrame:
    """Draw how long the utterances are; returns their quartiles."""
    beyond = seconds > MAX_SECONDS
    _, axes = plt.subplots(figsize=(9, 3.6))
    edges = np.arange(0, max([*seconds, MAX_SECONDS]) + 1, 0.5)
    axes.hist([seconds[~beyond], seconds[beyond]], edges, stacked=True, color=["#56B4E9", "#D55E00"])
    axes.axvline(MAX_SECONDS, **MARK)
    axes.annotate(f" {MAX_SECONDS} s", (MAX_SECONDS, 0.95), xycoords=("data", "axes fraction"))
    share = f"{beyond.sum():,} of {len(seconds):,} utterances ({beyond.mean():.1%})"
    axes.set_title(f"{share} are longer than {MAX_SECONDS} s")
    axes.set(xlabel="duration (s)", ylabel="utterances", xlim=(0, edges[-1]))
    plt.show()
    return seconds.describe().round(2).rename("duration (s)").to_frame().T.astype({"count": int})


def choose_examples(table: pd.DataFrame, seconds: pd.Series) -> pd.Series:
    """For each emotion the utterance on which the raters agree most, of equals that nearest to 4 s: emotions by id."""
    off = table["id"].map((seconds - 4).abs())
    found = table.assign(off=off)[off.notna() & (table["emotion"] != TIE)]
    found = found.sort_values(["agreement", "off"], ascending=[False, True]).drop_duplicates("emotion")
    return found.sort_values("emotion").set_index("id")["emotion"]


def central_crop(wave: np.ndarray) -> np.ndarray:
    """The 10 s in the middle of a wave at 16 kHz, or all of a shorter one."""
    start = max(0, (len(wave) - MAX_SECONDS * SAMPLE_RATE) // 2)
    return wave[start : start + MAX_SECONDS * SAMPLE_RATE]


def plot_examples(examples: pd.Series, paths: Mapping[str, Path]) -> None:
    """Draw the sound of each example, and the standardised log-mel spectrogram that the model sees."""
    scale, rows = plt.cm.ScalarMappable(plt.Normalize(-1, 2), "magma"), max(1, len(examples))
    figure, panels = plt.subplots(rows, 2, figsize=(12, 1.6 * rows + 0.5), squeeze=False, sharex=True, sharey="col")
    for (left, right), (segment, emotion) in zip(panels, examples.items(), strict=False):
        whole = read_wav(paths[segment])
        wave, spectrogram = central_crop(whole), LogMels([log_mel(whole)]).spectrograms(torch.tensor([[0]]))[0, 0]
        left.plot(np.arange(len(wave)) / SAMPLE_RATE, wave, color=COLOURS[emotion], linewidth=0.5)
        left.set_title(f"{emotion}: {segment}", loc="left")
        left.set(ylabel="amplitude", xlim=(0, MAX_SECONDS), ylim=(-1, 1))
        extent = (0, MAX_SECONDS, 0, N_MELS)
        right.imshow(spectrogram, cmap=scale.cmap, norm=scale.norm, origin="lower", aspect="auto", extent=extent)
        right.set(ylabel="mel band")
    figure.colorbar(scale, ax=panels[:, 1], label="standardised log-mel", fraction=0.03)
    plt.setp(panels[-1], xlabel="time (s)")
    plt.show()


def clean_all(transcripts: Mapping[str, str]) -> pd.DataFrame:
    """The transcripts by id, `raw` and `cleaned`."""
    raw = pd.Series(transcripts, dtype=object).str.strip()
    return pd.DataFrame({"raw": raw, "cleaned": raw.map(clean_transcript)})


def examples_of_marks(transcripts: pd.DataFrame) -> pd.DataFrame:
    """How often each of the twenty commonest marks is in a transcript, and the first one with it, raw and cleaned."""
    changed = transcripts[transcripts["raw"] != transcripts["cleaned"]]
    empty = (transcripts["cleaned"] == "").sum()
    print(f"{len(changed)} of {len(transcripts)} transcripts are changed, {empty} are empty then")
    removed = [
        "".join(word for word in raw.split() if word not in cleaned.split()) for raw, cleaned in changed.to_numpy()
    ]
    found = pd.Series(removed, changed.index, dtype=object, name="markup")  # without Korean and punctuation
    found = found.str.replace(r"[가-힣\d.,?!]", "", regex=True).replace("", "spaces")
    by_markup = changed.groupby(found).first()
    by_markup.insert(0, "transcripts", found.value_counts())
    return by_markup.nlargest(20, "transcripts")


def plot_dialogue(table: pd.DataFrame, transcripts: pd.DataFrame, number: int) -> pd.DataFrame:
    """Draw arousal and valence over dialogue `number`, from 0, its labels as colours; returns what was said."""
    names = list(dict.fromkeys(table["dialogue"]))
    own = table[table["dialogue"] == names[number % len(names)]].reset_index(drop=True)
    figure, panels = plt.subplots(2, 1, figsize=(11, 4), sharex=True)
    for axes, figure_of in zip(panels, ("arousal", "valence"), strict=True):
        axes.plot(own.index, own[figure_of], color="#b5b5b5", linewidth=1, zorder=1)
        axes.scatter(own.index, own[figure_of], c=own["emotion"].map(COLOURS).astype(str), s=70, edgecolors="black")
        axes.set(ylabel=figure_of, ylim=(0.8, 5.2), yticks=range(1, 6))
    panels[1].set_xticks(own.index, [f"{speaker}\n{place}" for place, speaker in enumerate(own["speaker"], start=1)])
    panels[1].set_xlabel("who speaks, and the place of the utterance")
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=COLOURS[label]) for label in LABELS]
    figure.legend(handles, LABELS, loc="outside lower center", ncols=len(LABELS))
    figure.suptitle(f"Dialogue {number % len(names) + 1} of {len(names)}: {own['dialogue'][0]}, {len(own)} utterances")
    plt.show()
    said = own["id"].map(transcripts["cleaned"]).fillna("")
    listed = pd.DataFrame({"who": own["speaker"], "said": said, "label": own["emotion"].astype(str)})
    listed["agree"] = own["agreement"].map("{:.0%}".format)
    listed.index += 1
    return listed


def plot_folds(table: pd.DataFrame, folds: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Draw the labels in the test sessions of each fold; returns their counts."""
    names = [f"fold {n}: sessions {sessions[0]}-{sessions[-1]}" for n, sessions in enumerate(folds, start=1)]
    of_session = {session: name for name, sessions in zip(names, folds, strict=True) for session in sessions}
    return plot_counts({"speaker": table.assign(session=table["session"].map(of_session))})
