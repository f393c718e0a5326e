"""Page: dialogue.html, what was predicted for one dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prediction.predictor import Prediction, Predictor
from prediction.recording import Clip
from prediction.utterance import Utterance
from reports.dialogues import (
    Dialogue,
    Page,
    Shown,
    corpus_truths,
    relative_url,
    write_page,
    write_transcripts,
)


def write_dialogue_page(
    path: Path,
    name: str,
    utterances: Sequence[Utterance],
    prediction: Prediction,
    predictor: Predictor,
    data_path: Path | None = None,
) -> None:
    """Write `dialogue.html`; `data_path` is of the corpus that the dialogue is from, if it is from one.

    The texts of one's own recording stand in the page, those of a corpus do not.
    """
    role, runs = predictor.role, predictor.runs
    truths = corpus_truths(data_path, role) if data_path else {}
    sound = next((relative_url(u.wave.recording.path, path) for u in utterances if isinstance(u.wave, Clip)), None)
    shown = []
    for number, utterance in enumerate(utterances):
        own = show(utterance, number, prediction, path)
        text, spread = None if data_path else own.text, own.spread if len(runs) > 1 else None
        shown.append(own._replace(text=text, spread=spread, truth=truths.get(utterance.id)))
    transcripts = [relative_url(write_transcripts(data_path, role, truths), path)] if data_path else []
    by = f"Mean of {len(runs)} runs, with the standard deviation between them: " if len(runs) > 1 else "Run "
    names = ", ".join(Path(run.name).name for run in runs)
    notes = [f"{by}{names}. {len(utterances)} utterances."]
    if not data_path:
        notes.append(
            "These are predictions, not facts about a person: the model learnt from acted speech of a few voices."
        )
    write_page(path, Page(name, role, notes, [Dialogue(name, shown, sound)], transcripts))


def show(utterance: Utterance, number: int, prediction: Prediction, path: Path) -> Shown:
    """What the page `path` shows of an utterance, which is the `number`-th of its dialogue."""
    spread = {
        "emotion": prediction.emotion_sd[number],
        "arousal": prediction.arousal_sd[number],
        "valence": prediction.valence_sd[number],
    }
    return Shown(
        prediction.emotion[number],
        prediction.arousal[number],
        prediction.valence[number],
        identifier=utterance.id,
        speaker=utterance.speaker,
        start=utterance.start,
        end=utterance.end,
        text=utterance.text or "",
        sound=relative_url(utterance.wave, path) if isinstance(utterance.wave, Path) else None,
        spread=spread,
    )
