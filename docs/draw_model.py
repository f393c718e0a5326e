"""The picture of MATE in the README, drawn from the model itself.

    python docs/draw_model.py

writes `model.svg` and `model_dark.svg` beside this file. Every size in it is read from `model.MATE`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402

from constants import AFFECT_RANGE, MAX_SECONDS, N_EMOTIONS, N_MELS, TEXT_DIM, n_frames  # noqa: E402
from model import MATE  # noqa: E402

WINDOW = 8  # utterances
WIDTH, HEIGHT = 1000, 396
FONT = "font-family='Helvetica, Arial, sans-serif'"


class Theme(NamedTuple):
    """Colours of a picture: background, text, faint text, lines, and the fill of what sounds, reads, joins, answers."""

    ground: str
    ink: str
    faint: str
    line: str
    audio: str
    text: str
    fusion: str
    answer: str


THEMES = {
    "model.svg": Theme("#ffffff", "#1f2328", "#59636e", "#6e7781", "#d8e8fb", "#dcf0dc", "#ece4f9", "#fbe7cf"),
    "model_dark.svg": Theme("#0d1117", "#e6edf3", "#9da7b1", "#8b949e", "#173a5e", "#1c4326", "#3a2a5c", "#5a3d14"),
}


class Box(NamedTuple):
    """A box of the picture: its corner and size in pixels, its fill by name in `Theme`, its lines of text."""

    x: int
    y: int
    w: int
    h: int
    fill: str
    lines: tuple[str, ...]

    @property
    def right(self) -> tuple[int, int]:
        return self.x + self.w, self.y + self.h // 2

    @property
    def left(self) -> tuple[int, int]:
        return self.x, self.y + self.h // 2


def widths(layers: torch.nn.Sequential) -> str:
    """Output sizes of the linear layers, such as `2048, 512`."""
    return ", ".join(str(layer.out_features) for layer in layers.modules() if isinstance(layer, torch.nn.Linear))


def boxes() -> dict[str, Box]:
    """The boxes by name, with the sizes of the default model."""
    with torch.device("meta"):
        model = MATE(ws=WINDOW)
    hidden, low, high = model.lstm.hidden_size, *AFFECT_RANGE
    audio_dim = model.lstm.input_size - TEXT_DIM
    blocks = len(model.audio_embedding)
    return {
        "wav": Box(24, 66, 134, 62, "audio", (f"{WINDOW} utterances", f"sound, {MAX_SECONDS} s each")),
        "words": Box(24, 268, 134, 62, "text", (f"{WINDOW} utterances", "words")),
        "mel": Box(186, 66, 134, 62, "audio", ("log-mel", f"{WINDOW} x {N_MELS} x {n_frames(16_000)}")),
        "bert": Box(186, 268, 134, 62, "text", ("KoBERT", "sentence embedding")),
        "cnn": Box(348, 66, 134, 62, "audio", (f"CNN, {blocks} blocks", f"{WINDOW} x {audio_dim}")),
        "emb": Box(348, 268, 134, 62, "text", ("embeddings", f"{WINDOW} x {TEXT_DIM}")),
        "lstm": Box(
            518,
            148,
            138,
            100,
            "fusion",
            (
                "LSTM or GRU",
                f"{model.lstm.num_layers} layers of {hidden}",
                f"in: {WINDOW} x {model.lstm.input_size}",
                f"out: {WINDOW} x {hidden}",
            ),
        ),
        "emotion": Box(
            696, 66, 134, 76, "answer", ("emotion head", widths(model.mlp_emotion[:-1]), f"softmax of {N_EMOTIONS}")
        ),
        "affect": Box(
            696, 254, 134, 76, "answer", ("affect head", widths(model.mlp_av), f"sigmoid, {low:.0f} to {high:.0f}")
        ),
        "label": Box(866, 66, 122, 76, "ground", (f"{N_EMOTIONS} emotions", "of the last", "utterance")),
        "rating": Box(866, 254, 122, 76, "ground", ("arousal, valence", "of the same", "utterance")),
    }


def draw_box(box: Box, theme: Theme) -> list[str]:
    """A rectangle with its lines of text in the middle, the first one bold."""
    parts = [
        f"<rect x='{box.x}' y='{box.y}' width='{box.w}' height='{box.h}' rx='8' fill='{getattr(theme, box.fill)}' "
        f"stroke='{theme.line}'/>"
    ]
    middle, top = box.x + box.w // 2, box.y + box.h // 2 - 9 * (len(box.lines) - 1) + 5
    for number, line in enumerate(box.lines):
        weight, ink = ("bold", theme.ink) if number == 0 else ("normal", theme.faint)
        parts.append(
            f"<text x='{middle}' y='{top + 18 * number}' text-anchor='middle' font-size='13' font-weight='{weight}' "
            f"fill='{ink}'>{line}</text>"
        )
    return parts


def draw_arrow(start: tuple[int, int], end: tuple[int, int], theme: Theme) -> str:
    """An arrow from point to point: level, then upright, then level."""
    (x1, y1), (x2, y2) = start, end
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1} H{middle} V{y2} H{x2 - 3}"
    return f"<path d='{path}' fill='none' stroke='{theme.line}' stroke-width='1.5' marker-end='url(#tip)'/>"


def draw(theme: Theme) -> str:
    """The picture as SVG."""
    found = boxes()
    title = (
        f"MATE: log-mels of {WINDOW} utterances through a CNN and their KoBERT sentence embeddings are joined, an LSTM "
        "or GRU reads them, and two heads give the emotion, arousal and valence of the last one"
    )
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' {FONT} role='img'>",
        f"<title>{title}</title>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='6' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        f"<path d='M0 0 L8 4 L0 8 z' fill='{theme.line}'/></marker></defs>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='{theme.ground}'/>",
        f"<text x='24' y='34' font-size='16' font-weight='bold' fill='{theme.ink}'>MATE, for one window of "
        f"{WINDOW} consecutive utterances of a dialogue</text>",
    ]
    chain = [("wav", "mel"), ("mel", "cnn"), ("words", "bert"), ("bert", "emb"), ("cnn", "lstm"), ("emb", "lstm")]
    chain += [("lstm", "emotion"), ("lstm", "affect"), ("emotion", "label"), ("affect", "rating")]
    parts += [draw_arrow(found[a].right, found[b].left, theme) for a, b in chain]
    for box in found.values():
        parts += draw_box(box, theme)
    emotion, affect = found["emotion"], found["affect"]
    x, bottom, top = emotion.x + emotion.w // 2, emotion.y + emotion.h, affect.y
    parts += [
        f"<path d='M{x} {bottom} V{top - 3}' fill='none' stroke='{theme.line}' stroke-width='1.5' "
        "stroke-dasharray='5 4' marker-end='url(#tip)'/>",
        f"<text x='{x + 8}' y='{(bottom + top) // 2 + 4}' font-size='12' fill='{theme.faint}'>probabilities</text>",
        f"<text x='24' y='{HEIGHT - 24}' font-size='12' fill='{theme.faint}'>Utterances before the start of the "
        "dialogue are zeros. The labels are those of the last utterance: of its speaker, or of the listener.</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write both pictures."""
    for name, theme in THEMES.items():
        (HERE / name).write_text(draw(theme), encoding="utf-8")


if __name__ == "__main__":
    main()
