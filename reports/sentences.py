"""Sentences: what a test's figures are by kind of dialogue, and on sentences that training contained or did not.

Actors play the same scripts in several sessions, so that training holds many of the tested sentences verbatim.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from constants import N_EMOTIONS
from corpora.registry import corpus_of, dialogue_of, parse_id
from corpora.transcripts import clean_transcript
from metric import WHOLE_FIGURES, ccc, ranked, single_label_figures

if TYPE_CHECKING:
    from corpora.annotation import Annotation

MIN_LETTERS = 5  # of a sentence: shorter ones, such as a yes, recur in any two dialogues
Labels = Mapping[str, np.ndarray]  # how often each emotion labels a sentence of training, int64, shape = (7,)


def normalise(transcript: str) -> str:
    """The letters and digits of a transcript, without markup, marks and spaces: equal for the same sentence."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", clean_transcript(transcript)))).lower()


def labels_of_sentences(annotation: Annotation, utterances: np.ndarray) -> Labels | None:
    """How often each emotion labels each sentence of five letters or more, by what `normalise` makes of it.

    Labels that tie count each. None where none of the utterances, numbers in `annotation`, is transcribed.
    """
    if annotation.text is None or not any(annotation.text[number] for number in utterances):
        return None
    found: dict[str, np.ndarray] = {}
    for number in utterances:
        if len(sentence := normalise(annotation.text[number])) >= MIN_LETTERS:
            found[sentence] = found.get(sentence, 0) + annotation.majority[number].astype(np.int64)
    return found


def look_up(sentences: Sequence[str], known: Labels, majority: int) -> np.ndarray:
    """The commonest training label of each sentence, `majority` for one that training lacks; int64, shape = (N,).

    Of labels that are as common for the sentence, `majority` is taken if it is one, else the first.
    """
    prefer = np.eye(N_EMOTIONS)[majority] / 2
    return np.array([(known[s] + prefer).argmax() if s in known else majority for s in sentences], dtype=np.int64)


def parts_of_test(ids: Sequence[str], sentences: Sequence[str] | None, known: Labels | None) -> dict[str, np.ndarray]:
    """The windows of each part of a test, bool, shape = (N,), by the part's name.

    `whole`; `scripted` and `improvised` in a corpus that has both; `seen` in training, `unseen` and `short` (fewer
    than five letters) by the sentence of a window's last utterance, where training and test are transcribed.
    """
    parts = {"whole": np.ones(len(ids), dtype=bool)}
    scripted = [corpus_of(segment).is_scripted(parse_id(segment)) for segment in ids]
    if None not in scripted:
        parts |= {"scripted": np.array(scripted), "improvised": ~np.array(scripted)}
    if known is not None and sentences is not None:
        seen = np.array([sentence in known for sentence in sentences])
        short = np.array([len(sentence) < MIN_LETTERS for sentence in sentences])
        parts |= {"seen": seen, "unseen": ~seen & ~short, "short": short}
    return parts


def figures_by_part(
    ids: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    majority: int,
    transcripts: Sequence[str] | None,
    known: Labels | None,
) -> dict[str, dict[str, Any]]:
    """The figures of each of `parts_of_test`, as `result.json` holds them under `parts`.

    Each has `n` windows, `n_single_label` of them with one majority label, and their `dialogues`; CCCs over all its
    windows, the other figures over those with one label; under `majority` the figures of always answering `majority`,
    and under `lookup` those of `look_up`. What has no window is left out.

    Parameters
    ----------
    ids, arrays : of N tested windows, as in `result.write_result`
    majority : label index of the commonest training label
    transcripts : of the windows' last utterances, None where the table has none
    known : of the training sessions, None where they are not transcribed
    """
    sentences = None
    if known is not None and transcripts is not None and any(transcripts):
        sentences = [normalise(transcript) for transcript in transcripts]
    emotion, predicted = arrays["emotion"], ranked(arrays["emotion_pred"])[:, 0]
    dialogue = np.array([dialogue_of(segment) for segment in ids])
    single, true = emotion.sum(axis=1) == 1, emotion.argmax(axis=1)
    baselines = {"majority": np.full(len(ids), majority)}
    if sentences is not None:
        baselines["lookup"] = look_up(sentences, known, majority)
    found = {}
    for name, inside in parts_of_test(ids, sentences, known).items():
        labelled = inside & single
        figures: dict[str, Any] = {"n": int(inside.sum()), "n_single_label": int(labelled.sum())}
        figures["dialogues"] = len(set(dialogue[inside]))
        if labelled.any():
            figures |= single_label_figures(true[labelled], predicted[labelled])
            for baseline, answers in baselines.items():
                figures[baseline] = single_label_figures(true[labelled], answers[labelled])
        if inside.any():
            for affect in ("arousal", "valence"):
                figures[f"ccc_{affect}"] = round(ccc(arrays[f"{affect}_pred"][inside], arrays[affect][inside]), 4)
        found[name] = figures
    return found


WORDS = {
    "scripted": "scripted dialogues",
    "improvised": "improvised dialogues",
    "seen": "sentences in training",
    "unseen": "sentences not in it",
    "short": "under five letters",
}


def describe_parts(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a terminal: a row for each part but the whole; none where there is no other part."""
    rows = {WORDS[name]: part for name, part in parts.items() if name in WORDS}
    if not rows:
        return []
    has_lookup = any("lookup" in part for part in rows.values())
    columns = dict(zip(WHOLE_FIGURES, ("weighted F1", "macro F1", "accuracy", "CCC A", "CCC V"), strict=True))
    heading = f"{'by dialogue and sentence':<26}{'windows':>8}{'1 label':>9}{'dialogues':>11}"
    heading += "".join(f"{text:>{len(text) + 2}}" for text in columns.values())
    lines = [heading + (f"{'looked up':>11}" if has_lookup else "")]
    for text, part in rows.items():
        line = f"  {text:<24}{part['n']:>8}{part['n_single_label']:>9}{part['dialogues']:>11}"
        figures = {name: f"{part[name]:.3f}" if name in part else "-" for name in columns}
        line += "".join(f"{figures[name]:>{len(text) + 2}}" for name, text in columns.items())
        if has_lookup:
            line += f"{part['lookup']['weighted_f1']:>11.3f}" if "lookup" in part else f"{'-':>11}"
        lines.append(line)
    if has_lookup:
        lines += [
            "  in training: the same sentence, of five letters or more, marks and spaces aside; looked up: weighted F1",
            "  of answering with that sentence's commonest training label, else with the commonest of all",
        ]
    return lines
