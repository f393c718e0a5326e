"""The sample corpora: lines, simulated raters, tables in the layouts of KEMDy19 and KEMDy20, and speech."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import espeakng_loader
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that the commands work from any folder

from constants import EMOTIONS, N_RATERS

# espeak-ng's words per minute, volume, pitch (added to the voice's) and pitch range; mean valence and arousal, 1 to 5
ACTING = {
    "disgust": (162, 88, -8, 60, 1.9, 3.2),
    "angry": (205, 120, 8, 65, 1.6, 4.3),
    "sad": (148, 55, -14, 22, 1.8, 1.9),
    "fear": (216, 72, 18, 35, 1.9, 3.7),
    "surprise": (187, 108, 25, 75, 3.1, 4.0),
    "neutral": (180, 80, 0, 40, 3.0, 2.4),
    "happy": (194, 100, 13, 75, 4.4, 3.8),
}
SPEECH_SPREAD = (8, 5, 4, 5)  # standard deviations of the first four
# Name and pitch (0 to 99): about 190 Hz and 100 Hz. f2 and f3 are not used, as their noise is not reproducible
VOICES = {"F": ("ko+f4", 56), "M": ("ko+m3", 40)}

AGREEMENT = (0.4, 0.9)  # chance that a rater recognises the emotion, drawn for each row
LISTENING = 0.5  # chance that the listener has the speaker's emotion, otherwise neutral
VOTE_SPREAD = 0.7  # standard deviation of a rater's valence or arousal before rounding
NEUTRAL = 0.8  # chance that a line of KEMDy20's sample is spoken as neutral: 87% of KEMDy20 is neutral

N_SCRIPTS, N_IMPROVISATIONS = 6, 10  # dialogues of sample_dialogues.csv
SAMPLE_RATE = 22_050  # Hz, espeak-ng's, so that readers have to resample
PAUSE = 0.5  # s between two utterances

Times = dict[str, tuple[str, str]]  # start and end of each utterance in its session, s
Votes = list[tuple[str, int, int]]  # emotion, valence and arousal of each rater of an actor during an utterance


@dataclass(frozen=True)
class Utterance:
    """A planned utterance, without its audio and times."""

    session: int
    id: str
    folder: Path  # of its wav and transcript, in the corpus
    speaker: str  # F or M
    line: str
    speech: list  # espeak-ng's voice, rate, volume, pitch and range
    votes: dict[str, Votes]  # by actor, F or M: for the speaker and the listener


def read_dialogues() -> dict[str, list[tuple[str, str, str]]]:
    """(speaker, emotion, text) of each line by dialogue: script01 to script06, impro01 to impro10."""
    dialogues = {}
    with Path(__file__).with_name("sample_dialogues.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            dialogues.setdefault(row["dialogue"], []).append((row["speaker"], row["emotion"], row["line"]))
    return dialogues


def draw_speech(rng: np.random.Generator, sex: str, emotion: str) -> list:
    """espeak-ng's parameters of an utterance."""
    voice, pitch = VOICES[sex]
    means = np.add(ACTING[emotion][:4], (0, 0, pitch, 0))
    return [voice, *rng.normal(means, SPEECH_SPREAD).astype(int).tolist()]


def draw_votes(rng: np.random.Generator, emotion: str) -> Votes:
    """Ten votes on an actor who feels `emotion`; the raters agree less on some rows than on others."""
    agreement = rng.uniform(*AGREEMENT)
    chances = [agreement if name == emotion else (1 - agreement) / (len(EMOTIONS) - 1) for name in EMOTIONS]
    emotions = rng.choice(EMOTIONS, size=N_RATERS, p=chances).tolist()
    affect = rng.normal(ACTING[emotion][4:], VOTE_SPREAD, size=(N_RATERS, 2)).round().clip(1, 5).astype(int)
    return [*zip(emotions, *affect.T.tolist(), strict=True)]


def plan_session(seed: int, session: int, layout: str, n_utterances: int | None) -> Iterator[Utterance]:
    """A script and an improvisation of two actors, each with at most `n_utterances`; for KEMDy20, two topics.

    Scripts repeat every 6 sessions and improvisations every 10, so the sentences of a test session also occur in
    training, as in KEMDy19, where all pairs act the same scripts.
    """
    rng = np.random.default_rng([seed, session])
    dialogues, is_kemdy20 = read_dialogues(), layout == "kemdy20"
    acted = f"script{(session - 1) % N_SCRIPTS + 1:02d}", f"impro{(session - 1) % N_IMPROVISATIONS + 1:02d}"
    names, ids = acted, {"F": "F", "M": "M"}
    if is_kemdy20:
        names, ids = ("script01", "script02"), {"F": f"User{2 * session - 1:03d}F_", "M": f"User{2 * session:03d}M_"}
    for source, name in zip(acted, names, strict=True):
        dialogue, folder, sequence = f"Sess{session:02d}_{name}", Path("wav", f"Session{session:02d}"), Counter()
        for speaker, emotion, line in dialogues[source][:n_utterances]:
            sequence[speaker] += 1
            segment = f"{dialogue}_{ids[speaker]}{sequence[speaker]:03d}"
            own = "neutral" if is_kemdy20 and rng.random() < NEUTRAL else emotion
            listener, heard = "M" if speaker == "F" else "F", own if rng.random() < LISTENING else "neutral"
            votes = {speaker: draw_votes(rng, own), listener: draw_votes(rng, heard)}
            path, speech = folder / ("" if is_kemdy20 else dialogue), draw_speech(rng, speaker, own)
            yield Utterance(session, segment, path, speaker, line, speech, votes)


# Tables: pairs of a path in the corpus and rows


def total(votes: Votes) -> list[str]:
    """The emotions with the most votes, and the mean valence and arousal, as written in tables."""
    emotions, valences, arousals = zip(*votes, strict=True)
    counts = Counter(emotions)
    most = sorted(emotion for emotion in counts if counts[emotion] == max(counts.values()))
    return [";".join(most), f"{np.mean(valences):.1f}", f"{np.mean(arousals):.1f}"]


def header(clocks: Sequence[str], raters: Sequence[str]) -> list[list[str]]:
    """The two header rows of an annotation table; blank cells follow a name over several columns."""
    times = [cell for clock in clocks for cell in (clock, "")]
    ratings = [cell for rater in ("Total Evaluation", *raters) for cell in (rater, "", "")]
    words = ["Emotion", "Valence", "Arousal"] * (1 + N_RATERS)
    return [["Numb", *times, "Segment ID", *ratings], ["", *("start", "end") * len(clocks), "", *words]]


def tables_kemdy19(utterances: Sequence[Utterance], times: Times) -> Iterator[tuple[str, list[list]]]:
    """`SessionNN_<actor>_res.csv`; the times of biosignals are blank."""
    for session, of_session in groupby(utterances, lambda u: u.session):
        own = [*of_session]
        for actor in "FM":
            raters = [f"Eval{n:02d}{'MF'[n % 2]}" for n in range(1, N_RATERS + 1)]
            rows = header(["Wav", "ECG", "E4-EDA", "E4-TEMP"], raters)
            for n, u in enumerate(own, start=1):
                rows.append([n, *times[u.id], *[""] * 6, u.id, *total(u.votes[actor]), *chain(*u.votes[actor])])
            yield f"annotation/Session{session:02d}_{actor}_res.csv", rows


def tables_kemdy20(utterances: Sequence[Utterance], times: Times) -> Iterator[tuple[str, list[list]]]:
    """`SessNN_eval.csv`."""
    for session, own in groupby(utterances, lambda u: u.session):
        rows = header(["WAV"], [f"rater{(session * N_RATERS + n) % 80:02d}" for n in range(N_RATERS)])
        for n, u in enumerate(own, start=1):
            rows.append([n, *times[u.id], u.id, *total(u.votes[u.speaker]), *chain(*u.votes[u.speaker])])
        yield f"annotation/Sess{session:02d}_eval.csv", rows


def tables_manifest(utterances: Sequence[Utterance], _times: Times) -> Iterator[tuple[str, list[list]]]:
    """The speaker rows of KEMDy19's sample as a manifest."""
    head = ["id", "wav", "session", "dialogue", "speaker", "text", "emotion", "valence", "arousal"]
    rows = [head + [f"votes_{emotion}" for emotion in EMOTIONS]]
    for u in utterances:
        votes, place = u.votes[u.speaker], [f"{u.folder.as_posix()}/{u.id}.wav", u.session, u.folder.name]
        counts = Counter(emotion for emotion, _, _ in votes)
        rows.append([u.id, *place, u.speaker, u.line, *total(votes), *(counts[name] for name in EMOTIONS)])
    yield "manifest.csv", rows


TABLES = {"kemdy19": tables_kemdy19, "kemdy20": tables_kemdy20, "manifest": tables_manifest}


def speak(utterances: Sequence[Utterance]) -> Iterator[bytes]:
    """The audio of each utterance: 16-bit samples at `SAMPLE_RATE` Hz.

    espeak-ng runs in a new process, because it keeps state, such as the phase of its flutter, until the process ends.
    """
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for u in utterances:
            process.stdin.write(json.dumps([u.line, *u.speech]).encode() + b"\n")
            process.stdin.flush()
            yield process.stdout.read(int(process.stdout.readline()))


def main() -> None:
    """Reply to lines [text, voice, rate, volume, pitch, range] of standard input with a byte count and the audio."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    samples = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(wav: object, n: int, _events: object) -> int:
        if wav and n > 0:
            samples.extend(ctypes.string_at(wav, 2 * n))
        return 0

    library.espeak_SetSynthCallback(receive)
    synchronous, utf8 = 2, 1  # AUDIO_OUTPUT_SYNCHRONOUS, espeakCHARS_UTF8 of speak_lib.h
    library.espeak_Initialize(synchronous, 0, os.fsencode(espeakng_loader.get_data_path()), 0)
    for job in sys.stdin.buffer:
        text, voice, *parameters = json.loads(job)
        samples.clear()
        library.espeak_SetVoiceByName(voice.encode())
        for number, value in enumerate(parameters, start=1):  # espeakRATE, espeakVOLUME, espeakPITCH, espeakRANGE
            library.espeak_SetParameter(number, value, 0)
        content = text.encode()
        library.espeak_Synth(content, len(content) + 1, 0, 0, 0, utf8, None, None)
        sys.stdout.buffer.write(b"%d\n%b" % (len(samples), samples))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
