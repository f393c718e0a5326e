"""Page: dialogue.html, what was predicted for one dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prediction.predictor import Prediction
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


def write_dialogue_page(  # noqa: PLR0913
    path: Path,
    name: str,
    utterances: Sequence[Utterance],
    prediction: Prediction,
    *,
    role: str,
    runs: Sequence[str],
    data_path: Path | None = None,
) -> None:
    """Write `dialogue.html`; `data_path` is of the corpus that the dialogue is from, if it is from one.

    The texts of one's own recording stand in the page, those of a corpus do not.
    """
    truths = corpus_truths(data_path, role) if data_path else {}
    sound = next((relative_url(u.wave.recording.path, path) for u in utterances if isinstance(u.wave, Clip)), None)
    shown = []
    for number, utterance in enumerate(utterances):
        spread = {
            "emotion": prediction.emotion_sd[number],
            "arousal": prediction.arousal_sd[number],
            "valence": prediction.valence_sd[number],
        }
        shown.append(
            Shown(
                prediction.emotion[number],
                prediction.arousal[number],
                prediction.valence[number],
                identifier=utterance.id,
                speaker=utterance.speaker,
                start=utterance.start,
                end=utterance.end,
                text=None if data_path else utterance.text or "",
                sound=relative_url(utterance.wave, path) if isinstance(utterance.wave, Path) else None,
                spread=spread if len(runs) > 1 else None,
                truth=truths.get(utterance.id),
            )
        )
    transcripts = [relative_url(write_transcripts(data_path, role, truths), path)] if data_path else []
    by = f"Mean of {len(runs)} runs, with the standard deviation between them: " if len(runs) > 1 else "Run "
    names = ", ".join(Path(run).name for run in runs)
    notes = [f"{by}{names}. {len(utterances)} utterances."]
    if not data_path:
        notes.append(
            "These are predictions, not facts about a person: the model learnt from acted speech of a few voices."
        )
    write_page(path, Page(name, role, notes, [Dialogue(name, shown, sound)], transcripts))
