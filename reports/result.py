"""Result: what the test of one run writes, and the lines that the program ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from constants import EMOTIONS
from corpora.base import Corpus
from metric import BATCH_FIGURES, ccc, confusion_matrix, matched_macro, overall_figures, published_figures
from reports.plots import plot_confusion, save_figure
from utils import atomic_write, write_json


def compute_result(arrays: dict[str, np.ndarray], majority: int, batch_size: int) -> dict:
    """All figures of a test, as `result.json` holds them; parameters as in `write_result`."""
    return {
        **published_figures(arrays["emotion_pred"], arrays["emotion"], batch_size),
        "ccc_arousal": round(ccc(arrays["arousal_pred"], arrays["arousal"]), 4),
        "ccc_valence": round(ccc(arrays["valence_pred"], arrays["valence"]), 4),
        "overall": overall_figures(arrays, majority, batch_size),
    }


def predictions_table(ids: Sequence[str], arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per tested window: id of its last utterance, true label(s), probabilities, arousal and valence.

    `ids` and `arrays` as in `write_result`.
    """
    emotion = [";".join(EMOTIONS[label] for label in np.flatnonzero(row)) for row in arrays["emotion"]]
    columns = {"segment_id": list(ids), "emotion": emotion}
    columns |= {f"p_{name}": arrays["emotion_pred"][:, label] for label, name in enumerate(EMOTIONS)}
    columns |= {name: arrays[name] for name in ("arousal", "arousal_pred", "valence", "valence_pred")}
    return pd.DataFrame(columns)


def write_result(
    folder: Path, ids: Sequence[str], arrays: dict[str, np.ndarray], majority: int, batch_size: int
) -> dict:
    """Write a test's files into `folder` and return the content of its `result.json`.

    Parameters
    ----------
    ids : segment ids of the tested windows' last utterances, N of them
    arrays : as `engine.evaluate` returns them: `emotion` (multi-hot) and `emotion_pred` (probabilities), shape =
        (N, 7), `arousal`, `arousal_pred`, `valence` and `valence_pred`, shape = (N,)
    majority : label index of the commonest training label
    batch_size : of the published figures

    Raises
    ------
    InputError : `folder` cannot be written to
    """
    result = compute_result(arrays, majority, batch_size)
    confusion = confusion_matrix(arrays["emotion_pred"], arrays["emotion"])
    with atomic_write(folder / "predictions.csv") as file:
        predictions_table(ids, arrays).to_csv(file, index=False, float_format="%.6g")
    with atomic_write(folder / "confusion.txt") as file:
        file.write("rows: predicted, columns: true; a window with k true labels adds its k likeliest ones\n")
        file.write(pd.DataFrame(confusion, index=EMOTIONS, columns=EMOTIONS).to_string() + "\n")
        macro = matched_macro(confusion)
        file.write("of these counts, macro " + ", ".join(f"{name} {value:.4f}" for name, value in macro.items()) + "\n")
    save_figure(plot_confusion(confusion, EMOTIONS), folder / "confusion.png")
    write_json(folder / "result.json", result)
    return result


def describe_result(result: dict, folder: Path, role: str, sessions: Sequence[int], corpus: Corpus) -> str:
    """The content of a `result.json` in words, for a terminal; `sessions` of `corpus` were tested.

    Macro F1 comes first for a corpus that is mostly of one emotion.
    """
    overall = result["overall"]
    heading = (
        f"{role}, {corpus.name}, sessions {', '.join(map(str, sessions))}: {overall['n']} windows, "
        f"{overall['n_single_label']} of them with one majority label"
    )
    blocks = [describe_published(result), describe_overall(overall, corpus.imbalanced)]
    if corpus.imbalanced:
        blocks.reverse()
    lines = ["", heading, "", *blocks[0], "", *blocks[1]]
    return "\n".join([*lines, "", f"experiment folder: {folder}"])


def describe_published(result: dict) -> list[str]:
    """Lines of the published figures and CCC."""
    overall = result["overall"]
    lines = [
        f"{'published figures':<26}{'precision':>14}{'recall':>14}{'F1':>14}",
    ]
    for k in ("", "@2"):
        figures = "".join(f"{result[name + k]:>14}" for name in BATCH_FIGURES)
        lines.append(f"  {'MATE, @' + (k[1:] or '1'):<24}{figures}")
    lines += [
        f"  {'always ' + overall['majority_label'] + ', @1':<24}{'':>28}{overall['majority_f1']:>9.3f}",
        f"  {'CCC':<24}{'arousal':>14}{result['ccc_arousal']:>14.3f}",
        f"  {'':<24}{'valence':>14}{result['ccc_valence']:>14.3f}",
    ]
    return lines


def describe_overall(overall: dict, macro_first: bool) -> list[str]:
    """Lines of the figures over the whole set."""
    lines = [f"{'whole set':<26}{'MATE':>14}{'always ' + overall['majority_label']:>18}"]
    names = ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "arousal_mae", "valence_mae"]
    if macro_first:
        names.sort(key=lambda name: name != "macro_f1")
    for name in names:
        if name in overall:
            baseline = overall.get("majority", {}).get(name)
            beside = "" if baseline is None else f"{baseline:>18.3f}"
            lines.append(f"  {name.replace('_', ' '):<24}{overall[name]:>14.3f}{beside}")
    return lines
