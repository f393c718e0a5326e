"""Result: what the test of one run writes, and the lines that the program ends with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from constants import EMOTIONS, N_EMOTIONS
from corpora.base import Corpus
from corpora.registry import by_corpus, corpus_of, parse_id
from corpora.sessions import Session, corpus_name, number_of
from metric import (
    BATCH_FIGURES,
    HEADINGS,
    WHOLE_FIGURES,
    ccc,
    confusion_matrix,
    matched_macro,
    overall_figures,
    published_figures,
    ranked,
)
from reports.comparison import CONFIDENCE, bootstrap_intervals
from reports.formats import format_difference, format_interval
from reports.intervals import mean_intervals
from reports.pairs import dialogue_sums, windows_table
from reports.plots import plot_confusion, save_figure
from reports.sentences import Labels, describe_parts, figures_by_part
from utils import atomic_write, count, write_json

RESAMPLES = 1_999  # of dialogues, for the verdict: a bound of the interval moves by some thousandths with more


class Context(NamedTuple):
    """What a test's files say beside its figures.

    transcripts : of the tested windows' last utterances, None where the table has none
    sentences : labels of the training sessions' sentences, None where these are not transcribed
    epoch : whose weights were tested, None where that is not known
    epochs : `--epochs` of its training
    chosen : why that epoch, in words
    warnings : sentences that a reader of the figures must know
    """

    transcripts: Sequence[str] | None = None
    sentences: Labels | None = None
    epoch: int | None = None
    epochs: int | None = None
    chosen: str = ""
    warnings: Sequence[str] = ()


def compute_result(arrays: dict[str, np.ndarray], majority: int, batch_size: int) -> dict:
    """The figures of a test, as `result.json` holds them; parameters as in `write_result`."""
    return {
        **published_figures(arrays["emotion_pred"], arrays["emotion"], batch_size),
        "ccc_arousal": round(ccc(arrays["arousal_pred"], arrays["arousal"]), 4),
        "ccc_valence": round(ccc(arrays["valence_pred"], arrays["valence"]), 4),
        "overall": overall_figures(arrays, majority, batch_size),
    }


def compare_with_majority(ids: Sequence[str], arrays: dict[str, np.ndarray], majority: int) -> dict[str, Any]:
    """F1 over the whole test set less that of always answering `majority`, with its 95% bootstrap interval.

    Dialogues are resampled, because windows of one dialogue overlap; see `comparison.bootstrap_intervals`. `low` and
    `high` are None where there is a single dialogue. Parameters as in `write_result`.
    """
    always = arrays | {"emotion_pred": np.tile(np.eye(N_EMOTIONS)[majority], (len(ids), 1))}
    both = [dialogue_sums(windows_table(ids, answers)) for answers in (always, arrays)]
    sums = np.stack(both, axis=1)[:, None]
    found = bootstrap_intervals([sums], RESAMPLES, seed=0).loc["F1"]
    low, high = (None if np.isnan(found[name]) else round(float(found[name]), 4) for name in ("low", "high"))
    return {"f1_difference": round(float(found["difference"]), 4), "low": low, "high": high, "dialogues": len(sums)}


def whole_set_intervals(ids: Sequence[str], arrays: dict[str, np.ndarray]) -> dict[str, list[float] | None]:
    """The 95% bootstrap interval over dialogues of each of `WHOLE_FIGURES`, None where there is none; see `resample`.

    Parameters as in `write_result`.
    """
    found = mean_intervals([dialogue_sums(windows_table(ids, arrays))[:, None]], RESAMPLES)
    bounds = {name: found.loc[name, ["low", "high"]].astype(float).round(4).tolist() for name in WHOLE_FIGURES}
    return {name: None if np.isnan(pair).any() else pair for name, pair in bounds.items()}


def predictions_table(
    ids: Sequence[str], arrays: dict[str, np.ndarray], transcripts: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row per tested window: id of its last utterance, true label(s), probabilities, arousal and valence.

    Behind them: session, dialogue and speaker, the likeliest label, and the transcript; of several corpora also the
    corpus. Parameters as in `write_result`.
    """
    emotion = [";".join(EMOTIONS[label] for label in np.flatnonzero(row)) for row in arrays["emotion"]]
    columns = {"segment_id": list(ids), "emotion": emotion}
    columns |= {f"p_{name}": arrays["emotion_pred"][:, label] for label, name in enumerate(EMOTIONS)}
    columns |= {name: arrays[name] for name in ("arousal", "arousal_pred", "valence", "valence_pred")}
    parts = [parse_id(segment) for segment in ids]
    columns |= {name: [getattr(part, name) for part in parts] for name in ("session", "dialogue", "speaker")}
    columns["predicted"] = [EMOTIONS[label] for label in ranked(arrays["emotion_pred"])[:, 0]]
    columns["text"] = "" if transcripts is None else transcripts
    if len(by_corpus(ids)) > 1:
        columns["corpus"] = [corpus_of(segment).name for segment in ids]
    return pd.DataFrame(columns)


def figures_by_corpus(
    ids: Sequence[str], arrays: dict[str, np.ndarray], majority: int, batch_size: int
) -> dict[str, dict]:
    """The figures of each corpus's windows, by its name; nothing where all are of one. Parameters as in `write_result`.

    Those per batch are of batches of the corpus alone.
    """
    corpora = np.array([corpus_of(segment).name for segment in ids])
    rows = {name: np.flatnonzero(corpora == name) for name in dict.fromkeys(corpora.tolist())}
    if len(rows) == 1:
        return {}
    return {
        name: compute_result({key: values[own] for key, values in arrays.items()}, majority, batch_size)
        for name, own in rows.items()
    }


def write_result(
    folder: Path,
    ids: Sequence[str],
    arrays: dict[str, np.ndarray],
    majority: int,
    batch_size: int,
    context: Context = Context(),  # noqa: B008 (it is immutable)
) -> dict:
    """Write a test's files into `folder` and return the content of its `result.json`.

    Parameters
    ----------
    ids : segment ids of the tested windows' last utterances, N of them
    arrays : as `engine.evaluate` returns them: `emotion` (multi-hot) and `emotion_pred` (probabilities), shape =
        (N, 7), `arousal`, `arousal_pred`, `valence` and `valence_pred`, shape = (N,)
    majority : label index of the commonest training label
    batch_size : of the figures by batch
    context : what the files say beside the figures

    Raises
    ------
    InputError : `folder` cannot be written to
    """
    result = compute_result(arrays, majority, batch_size)
    result["against_majority"] = compare_with_majority(ids, arrays, majority)
    if of_each := figures_by_corpus(ids, arrays, majority, batch_size):
        result["by_corpus"] = of_each
    result["intervals"] = whole_set_intervals(ids, arrays)
    result["parts"] = figures_by_part(ids, arrays, majority, context.transcripts, context.sentences)
    result |= {"epoch": context.epoch, "epochs": context.epochs, "chosen": context.chosen}
    result["warnings"] = [*context.warnings]
    confusion = confusion_matrix(arrays["emotion_pred"], arrays["emotion"])
    with atomic_write(folder / "predictions.csv") as file:
        predictions_table(ids, arrays, context.transcripts).to_csv(file, index=False, float_format="%.6g")
    with atomic_write(folder / "confusion.txt") as file:
        file.write(
            "rows: predicted, columns: true, as published (true ones are the rows everywhere else); a window with k "
            "true labels adds its k likeliest ones\n"
        )
        file.write(pd.DataFrame(confusion.T, index=EMOTIONS, columns=EMOTIONS).to_string() + "\n")
        macro = matched_macro(confusion)
        file.write("of these counts, macro " + ", ".join(f"{name} {value:.4f}" for name, value in macro.items()) + "\n")
    save_figure(plot_confusion(confusion, EMOTIONS), folder / "confusion.png")
    write_json(folder / "result.json", result)
    return result


def describe_verdict(result: dict) -> str:
    """One sentence on whether a `result.json` beats always answering the commonest training label.

    It does where the interval of the difference lies above 0.
    """
    found, always = result["against_majority"], f"always answering {result['overall']['majority_label']}"
    low, high, difference = found["low"], found["high"], found["f1_difference"]
    n_dialogues = f"{found['dialogues']} dialogue{'s' * (found['dialogues'] > 1)}"
    measured = f"its F1 over the whole test set differs by {format_difference(difference)}"
    if low is None:
        return f"verdict: {n_dialogues} cannot tell the model from {always} ({measured})."
    interval = f"{CONFIDENCE:.0%} interval {format_difference(low)} to {format_difference(high)} over {n_dialogues}"
    if low > 0:
        return f"verdict: better than {always}: {measured} ({interval})."
    if high < 0:
        return f"verdict: worse than {always}: {measured} ({interval})."
    return f"verdict: no better than {always}, as far as this test can tell: {measured} ({interval})."


def describe_result(
    result: dict, folder: Path, role: str, sessions: Sequence[Session], corpora: Sequence[Corpus]
) -> str:
    """The content of a `result.json` in words, for a terminal; `sessions` of `corpora` were tested.

    Macro F1 comes first for a corpus that is mostly of one emotion.
    """
    whole = result["parts"]["whole"]
    heading = [
        f"{role}, {describe_tested(sessions, corpora)}: {count(whole['n'], 'window')} of "
        f"{count(whole['dialogues'], 'dialogue')}, {whole['n_single_label']} of them with one majority label"
    ]
    if result["epoch"] is not None:
        chosen = f", {result['chosen']}" if result["chosen"] else ""
        heading.append(f"weights of epoch {result['epoch']} of {result['epochs']}{chosen}")
    blocks = [
        heading,
        describe_overall(result, any(corpus.imbalanced for corpus in corpora)),
        describe_parts(result["parts"]),
        describe_by_batch(result),
        describe_corpora(result["by_corpus"]) if "by_corpus" in result else [],
        [describe_verdict(result), f"experiment folder: {folder}"],
    ]
    return "\n" + "\n\n".join("\n".join(lines) for lines in blocks if lines)


def describe_tested(sessions: list[Session], corpora: Sequence[Corpus]) -> str:
    """The tested sessions of each corpus in words."""
    tested = []
    for corpus in corpora:
        numbers = [number_of(session) for session in sessions if corpus_name(session) in ("", corpus.name)]
        tested.append(f"{corpus.name}, sessions {', '.join(map(str, numbers))}")
    return " and ".join(tested)


def describe_overall(result: dict, macro_first: bool) -> list[str]:
    """Lines of the figures over the whole set, those with an interval first."""
    overall, whole = result["overall"], result["parts"]["whole"]
    has_lookup = "lookup" in whole
    heading = f"{'whole test set':<26}{'MATE':>8}{f'{CONFIDENCE:.0%} interval':>16}"
    heading += f"{'always ' + overall['majority_label']:>18}" + (f"{'sentence looked up':>20}" if has_lookup else "")
    lines = [heading]
    names = [*WHOLE_FIGURES, "balanced_accuracy", "arousal_mae", "valence_mae"]
    if macro_first:
        names.sort(key=lambda name: name != "macro_f1")
    for name in names:
        value = overall.get(name, result.get(name))
        if value is None:  # no window has a single label
            continue
        text = HEADINGS.get(name, name.replace("_mae", " MAE").replace("_", " "))
        bounds = result["intervals"].get(name)
        line = f"  {text:<24}{value:>8.3f}{format_interval(*bounds) if bounds else '':>16}"
        if name in overall.get("majority", {}):
            line += f"{overall['majority'][name]:>18.3f}" + (f"{whole['lookup'][name]:>20.3f}" if has_lookup else "")
        lines.append(line.rstrip())
    return lines


def describe_by_batch(result: dict) -> list[str]:
    """Lines of the figures per batch."""
    overall = result["overall"]
    lines = [f"{'as the paper counts (per batch)':<34}{'precision':>14}{'recall':>14}{'F1':>14}"]
    for k in ("", "@2"):
        figures = "".join(f"{result[name + k]:>14}" for name in BATCH_FIGURES)
        lines.append(f"  {'MATE, @' + (k[1:] or '1'):<32}{figures}")
    return [*lines, f"  {'always ' + overall['majority_label'] + ', @1':<32}{'':>28}{overall['majority_f1']:>9.3f}"]


def describe_corpora(by_corpus: dict[str, dict]) -> list[str]:
    """Lines of the figures over each corpus's windows."""
    lines = [f"{'of each corpus':<34}" + "".join(f"{name:>14}" for name in by_corpus)]
    rows = {"windows": [str(result["overall"]["n"]) for result in by_corpus.values()]}
    for name in ("macro_f1", "accuracy", "balanced_accuracy", "weighted_f1"):
        values = [result["overall"].get(name) for result in by_corpus.values()]
        rows[name.replace("_", " ")] = ["" if value is None else f"{value:.3f}" for value in values]
    for name in ("arousal", "valence"):
        rows[f"CCC of {name}"] = [f"{result[f'ccc_{name}']:.3f}" for result in by_corpus.values()]
    return lines + [f"  {name:<32}" + "".join(f"{value:>14}" for value in values) for name, values in rows.items()]
