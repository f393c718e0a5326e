"""The KEMDy20 layout of the sample corpus: two speakers of free talk a session, mostly neutral.

`make_sample.py --layout kemdy20` makes it, of the same lines and voices, with small numbers of KEMDy20's oddities.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from make_sample import (
    ENCODER_STEPS,
    Rating,
    Speech,
    add_text_oddities,
    draw_rating,
    draw_speech,
    mark_as_synthetic,
    read_dialogues,
    speak,
    whole_or_nothing,
    write_text_encoder,
)
from tqdm import tqdm

from constants import EMOTIONS, N_RATERS
from corpora.kemdy20 import N_SESSIONS
from utils import InputError

DIALOGUES = 2  # of the six topics of a session
NEUTRAL = 0.8  # chance that a line is said without its emotion: KEMDy20 is neutral for 87%
PAUSE = (-0.4, 1.0)  # s between two utterances: neighbours may overlap
TIE = tuple(EMOTIONS[:5]) * 2  # ten votes that tie five ways
STREAM = 20  # of random numbers, beside those of make_sample.py


@dataclass(frozen=True)
class Talk:
    """One utterance as planned: everything but its sound and its place in time."""

    session: int
    script: str
    user: int
    sex: str  # F or M
    sequence: int  # of this speaker in this dialogue, from 1
    line: str  # what is spoken
    transcript: str  # what the .txt holds
    speech: Speech
    rating: Rating

    def named(self, session: int) -> str:
        """The segment id with this session's prefix."""
        return f"Sess{session:02d}_{self.script}_User{self.user:03d}{self.sex}_{self.sequence:03d}"

    @property
    def segment_id(self) -> str:
        return self.named(self.session)

    @property
    def stem(self) -> Path:
        """Path of wav and transcript below the corpus, without the suffix."""
        return Path("wav", f"Session{self.session:02d}", self.segment_id)


def plan_talk(seed: int, sessions: int, utterances: int | None) -> list[Talk]:
    """All utterances in order of time; the last session is of one sex, and the first utterance's votes tie five ways.

    Raises
    ------
    InputError : a number is out of range
    """
    if not 1 <= sessions <= N_SESSIONS or not 0 <= seed < 2**32 or (utterances is not None and utterances < 1):
        raise InputError(
            f"sessions is {sessions}, seed {seed}, utterances {utterances}; expected 1 to {N_SESSIONS} sessions, "
            f"a seed of 0 to {2**32 - 1}, and at least 1 utterance"
        )
    dialogues = list(read_dialogues().values())
    planned: list[Talk] = []
    for session in range(1, sessions + 1):
        rng = np.random.default_rng([seed, STREAM, session])
        sexes = {"F": "F", "M": "F" if session == sessions else "M"}
        users = {"F": 2 * session - 1, "M": 2 * session}
        own = {who: rng.normal((1.0, 0.0, 0.0), (0.05, 4.0, 4.0)).tolist() for who in "FM"}
        for topic in range(1, DIALOGUES + 1):
            sequence: Counter[str] = Counter()
            for line in dialogues[(DIALOGUES * session + topic) % len(dialogues)][:utterances]:
                who, excitement = line.speaker, float(rng.normal())
                emotion = "neutral" if rng.random() < NEUTRAL else line.emotion
                sequence[who] += 1
                talk = Talk(
                    session=session,
                    script=f"script{topic:02d}",
                    user=users[who],
                    sex=sexes[who],
                    sequence=sequence[who],
                    line=line.text,
                    transcript=line.text,
                    speech=draw_speech(rng, sexes[who], emotion, own[who], excitement),
                    rating=draw_rating(rng, emotion, excitement),
                )
                planned.append(talk)
    planned[0] = replace(planned[0], rating=replace(planned[0].rating, emotions=TIE))
    return add_text_oddities(planned, np.random.default_rng([seed, STREAM]))


def prefix_of_table(session: int, sessions: int) -> int:
    """The session whose prefix the ids of a table carry: in one table, 17 as in KEMDy20 or the last one, another's."""
    return session - 1 if session > 1 and session == min(17, sessions) else session


def write_table(folder: Path, talks: Sequence[Talk], seconds: dict[str, float], seed: int, sessions: int) -> None:
    """`SessNN_eval.csv`; the totals spell `disqust`, the votes do not; session 3 has a byte order mark."""
    session = talks[0].session
    rng, clock = np.random.default_rng([seed, STREAM, session, 1]), 0.0
    raters = [f"rater{(session * N_RATERS + n) % 80:02d}" for n in range(N_RATERS)]  # they vary
    rows = [
        ["Numb", "WAV", "", "Segment ID", "Total Evaluation", "", "", *(c for r in raters for c in (r, "", ""))],
        ["", "start", "end", "", *("Emotion", "Valence", "Arousal") * (1 + N_RATERS)],
    ]
    for number, talk in enumerate(talks, start=1):
        end = clock + seconds[talk.segment_id]
        total, *votes = talk.rating.cells()
        segment = talk.named(prefix_of_table(session, sessions))
        total = total.replace("disgust", "disqust")
        rows.append([str(number), f"{clock:.3f}", f"{end:.3f}", segment, total, *votes])
        clock = end + rng.uniform(*PAUSE)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    encoding = "utf-8-sig" if session == 3 else "utf-8"
    (folder / f"Sess{session:02d}_eval.csv").write_bytes(text.getvalue().encode(encoding))


def make_sample_kemdy20(
    out: Path, seed: int = 0, sessions: int = N_SESSIONS, utterances: int | None = None, *, progress: bool = False
) -> str:
    """Make the sample corpus in KEMDy20's layout in a new folder; parameters as in `make_sample.make_sample`.

    Returns
    -------
    str : what was made, in one line
    """
    talks = plan_talk(seed, sessions, utterances)
    with (
        whole_or_nothing(Path(out).absolute()) as folder,
        tqdm(total=len(talks) + ENCODER_STEPS, unit="step", disable=not progress) as bar,
    ):
        for talk in talks:
            path = folder / f"{talk.stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            encoding = "utf-8" if talk.session == 2 else "cp949"
            path.write_bytes(f"{talk.transcript}\n".encode(encoding) if talk.transcript else b"")
        seconds = {}
        for talk, duration in zip(talks, speak(talks, folder), strict=True):
            seconds[talk.segment_id] = duration
            bar.update()
        (folder / "annotation").mkdir()
        for session in range(1, sessions + 1):
            own = [talk for talk in talks if talk.session == session]
            write_table(folder / "annotation", own, seconds, seed, sessions)
        lines = [line.text for dialogue in read_dialogues().values() for line in dialogue]
        write_text_encoder(folder / "kobert", lines, seed)
        mark_as_synthetic(folder, seed)
        bar.update(ENCODER_STEPS)
    minutes = sum(seconds.values()) / 60
    return f"{len(talks)} utterances, {minutes:.1f} minutes of synthetic speech in {out}, in KEMDy20's layout"
