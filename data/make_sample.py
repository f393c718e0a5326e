"""Make the sample corpus: a small synthetic KEMDy19, free of any licence, so that every command can be tried.

    python data/make_sample.py                                 # 20 sessions into data/sample
    python data/make_sample.py --out data/tiny --sessions 6 --utterances 4

The lines are those of ``sample_dialogues.csv``; espeak-ng speaks them; ten simulated raters rate them. The folder has
the raw layout of KEMDy19, with small numbers of its oddities, and beside it ``kobert/``, a tiny randomly initialised
BERT in the file layout of skt/kobert-base-v1. Nothing in it is a recording or a rating of a person: figures reached on
it say that a program runs, and nothing about emotion recognition. The same seed gives the same bytes.
"""

import argparse
import csv
import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import wave
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # so that the command works from any folder
    sys.path.insert(0, str(ROOT))

from constants import EMOTION_ALIASES, EMOTIONS, N_RATERS, TEXT_DIM  # noqa: E402
from corpora.kemdy19 import N_SESSIONS  # noqa: E402
from corpora.provenance import MARKER  # noqa: E402
from training.arguments import ArgumentParser, file_path  # noqa: E402
from utils import InputError, run_command, write_json  # noqa: E402

DIALOGUES_FILE = Path(__file__).resolve().parent / "sample_dialogues.csv"
OUT = Path(__file__).resolve().parent / "sample"
MAX_DIALOGUES = 3  # in a session: a script, an improvisation, a second improvisation
N_IMPRO_NAMES = 4  # improvisations are named impro01 to impro04 in every session, whatever their content

# Speech: espeak-ng's own units are words a minute for the rate, 0 to 99 for pitch and range, percent for the volume.
VOICES = {"F": "ko+f4", "M": "ko+m3"}  # f2 and f3 draw noise seeded by the clock, so they would not repeat
BASE_RATE = 180  # words a minute: 4 to 5 s an utterance, as in KEMDy19
BASE_PITCH = {"F": 56, "M": 40}  # about 190 Hz and 100 Hz


@dataclass(frozen=True)
class Acting:
    """How an emotion is spoken and, on the raters' scales of 1 to 5, felt."""

    rate: float  # times the speaker's own
    pitch: int  # added to the speaker's own
    range: int
    volume: int
    valence: float
    arousal: float


ACTING = {
    "disgust": Acting(rate=0.90, pitch=-8, range=60, volume=88, valence=1.9, arousal=3.2),
    "angry": Acting(rate=1.14, pitch=8, range=65, volume=120, valence=1.6, arousal=4.3),
    "sad": Acting(rate=0.82, pitch=-14, range=22, volume=55, valence=1.8, arousal=1.9),
    "fear": Acting(rate=1.20, pitch=18, range=35, volume=72, valence=1.9, arousal=3.7),
    "surprise": Acting(rate=1.04, pitch=25, range=95, volume=108, valence=3.1, arousal=4.0),
    "neutral": Acting(rate=1.00, pitch=0, range=40, volume=80, valence=3.0, arousal=2.4),
    "happy": Acting(rate=1.08, pitch=13, range=75, volume=100, valence=4.4, arousal=3.8),
}

# Raters: what an emotion is taken for by those who miss it, and what somebody who hears it is likely to feel.
CONFUSIONS = {
    "disgust": {"angry": 0.50, "fear": 0.15, "surprise": 0.10, "neutral": 0.25},
    "angry": {"disgust": 0.35, "sad": 0.15, "surprise": 0.15, "neutral": 0.35},
    "sad": {"neutral": 0.55, "fear": 0.20, "angry": 0.15, "disgust": 0.10},
    "fear": {"surprise": 0.35, "sad": 0.30, "neutral": 0.25, "angry": 0.10},
    "surprise": {"happy": 0.35, "fear": 0.30, "neutral": 0.25, "angry": 0.10},
    "neutral": {"sad": 0.30, "happy": 0.30, "surprise": 0.20, "angry": 0.20},
    "happy": {"surprise": 0.40, "neutral": 0.60},
}
REACTIONS = {
    "disgust": {"disgust": 0.45, "neutral": 0.35, "surprise": 0.10, "angry": 0.10},
    "angry": {"sad": 0.30, "fear": 0.25, "angry": 0.20, "neutral": 0.20, "surprise": 0.05},
    "sad": {"sad": 0.50, "neutral": 0.35, "fear": 0.10, "surprise": 0.05},
    "fear": {"fear": 0.40, "neutral": 0.35, "surprise": 0.15, "sad": 0.10},
    "surprise": {"surprise": 0.35, "neutral": 0.40, "happy": 0.15, "fear": 0.10},
    "neutral": {"neutral": 0.85, "happy": 0.05, "sad": 0.05, "surprise": 0.05},
    "happy": {"happy": 0.55, "neutral": 0.30, "surprise": 0.15},
}
AGREEMENT = (0.50, 0.90)  # part of the raters who hear the acted emotion, drawn anew for every row
OWN_LINE = 0.5  # chance that a listener already feels what her own neighbouring line will act
LISTENER_AROUSAL = 0.6  # a listener shows less: her arousal is drawn this much towards that of neutral
VOTE_SPREAD = 0.7  # standard deviation of a rater's valence or arousal before it is rounded

# Oddities of the corpus. A line is cut at its first space into {first} and {rest}; {word} is {first} unpunctuated.
MARKUP = (
    "b/ {line}",
    "({word}+아니) {rest}",
    "{line} l/",
    "({word}) {rest}",
    "(u/+u/) {line}",
    "(네 + {word}) {rest}",
    "{first} u/. {rest}",
    "*{line}",
    '"{line}"',
    "n/ {line}",
    "{first}  {rest}",
    ".b/ {line}",
    "(그래+{word}) {rest}",
    "{line} (아니잖아)",
    "{first} /n {rest}",
    "N/ {line} o/",
    "s/ {line}",
    "{first} c/ {rest}",
    "({word} + 잠깐만) {rest}",
    "l/ {line}",
)
UTTERANCES_A_MARK = 8  # at most one marked transcript in so many utterances
EMPTY_TRANSCRIPTS = ("", "n/")
MISSPELT = EMOTION_ALIASES  # wrong spelling to right one
N_MISSPELT = 4  # rows
MISSPELT_CELLS = 3 * (1 + N_RATERS // 2)  # of such a row: the total and half of the raters, so that both spellings meet
# Training refuses a corpus in which too many wavs or transcripts are missing, so a small one goes without.
MIN_FOR_EMPTY = (25, 60)  # utterances from which there is a first and a second empty transcript
MIN_FOR_MISSING_WAV = 60

# Tables: position 0 Numb, 1-8 start and end of wav, ECG, EDA, TEMP, 9 segment id, 10-12 total, then 3 a rater.
HEADER_GROUPS = ("Wav", "ECG", "E4-EDA", "E4-TEMP")
PAUSE = (0.3, 1.2)  # s between two utterances
DIALOGUE_PAUSE = (20.0, 40.0)  # s between two dialogues
BIOSIGNAL_DELAY = {"ECG": 2.0, "E4-EDA": 5.0, "E4-TEMP": 5.0}  # s after the wav's clock, about

# The stand-in for KoBERT
ENCODER_STEPS = 1_000  # of the progress bar: making it takes as long as speaking about so many utterances
VOCAB_SIZE = 1_000  # pieces at most; the lines hold fewer
SPECIAL_PIECES = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4, as in KoBERT
TOKENIZER_CONFIG = {
    "do_lower_case": False,
    "remove_space": True,
    "keep_accents": False,
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "tokenizer_class": "XLNetTokenizer",
}

# Streams of random numbers, so that one part can change without the others
STREAM_SPEAKERS, STREAM_RATINGS, STREAM_ODDITIES, STREAM_CLOCK = range(4)


@dataclass(frozen=True)
class Line:
    """One line of ``sample_dialogues.csv``."""

    speaker: str  # F or M
    emotion: str
    text: str


@dataclass(frozen=True)
class Speech:
    """What espeak-ng is asked for, in its own units; the numbers in the order of its parameters 1 to 4."""

    voice: str
    rate: int
    volume: int
    pitch: int
    range: int


@dataclass(frozen=True)
class Rating:
    """The ten raters' votes on one actor during one utterance."""

    emotions: tuple[str, ...]
    valences: tuple[int, ...]
    arousals: tuple[int, ...]
    misspelt: bool = False  # written with ``MISSPELT`` spellings

    @property
    def total_emotion(self) -> str:
        """The commonest vote; ties joined by ``;``."""
        votes = Counter(self.emotions)
        return ";".join(sorted(emotion for emotion in votes if votes[emotion] == max(votes.values())))

    def cells(self) -> list[str]:
        """The 3 + 3 x 10 cells of a table row."""
        total = [self.total_emotion, f"{np.mean(self.valences):.1f}", f"{np.mean(self.arousals):.1f}"]
        votes = zip(self.emotions, self.valences, self.arousals, strict=True)
        cells = total + [str(cell) for vote in votes for cell in vote]
        for wrong, right in MISSPELT.items() if self.misspelt else ():
            cells[:MISSPELT_CELLS] = [cell.replace(right, wrong) for cell in cells[:MISSPELT_CELLS]]
        return cells


@dataclass(frozen=True)
class Utterance:
    """One utterance as planned: everything but its sound and its place in time."""

    session: int
    dialogue: str  # script01 to script06, impro01 to impro04
    speaker: str
    sequence: int  # of this speaker in this dialogue, from 1
    emotion: str
    line: str  # what is spoken
    transcript: str  # what the .txt holds
    speech: Speech
    ratings: dict[str, Rating]  # of the actor F and of the actor M

    @property
    def folder(self) -> str:
        return f"Sess{self.session:02d}_{self.dialogue}"

    @property
    def segment_id(self) -> str:
        return f"{self.folder}_{self.speaker}{self.sequence:03d}"

    @property
    def stem(self) -> Path:
        """Path of wav and transcript below the corpus, without the suffix."""
        return Path("wav", f"Session{self.session:02d}", self.folder, self.segment_id)


@dataclass(frozen=True)
class Plan:
    """The corpus before it is spoken; which oddity sits where."""

    seed: int
    utterances: tuple[Utterance, ...]  # in order of time, sessions one after another
    missing_wav: str | None  # segment id
    blank_biosignals: str  # dialogue folder
    repeated: tuple[str, Rating]  # segment id of the listener row that occurs twice, its second rating
    crlf_table: tuple[int, str]  # session and actor of the table with BOM and CRLF
    cp949_table: tuple[int, str]  # session and actor of the table in CP949, its raters named in Korean


def read_dialogues(path: Path = DIALOGUES_FILE) -> dict[str, list[Line]]:
    """Lines of each dialogue in order; names are script01.. (acted by several pairs) and impro_a.. (improvised)."""
    dialogues: dict[str, list[Line]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):  # row 1 is the header
            if row["speaker"] not in VOICES or row["emotion"] not in EMOTIONS or not row["line"]:
                found = f"{row['speaker']!r}, {row['emotion']!r}, {row['line']!r}"
                raise ValueError(f"{path.name} row {number}: {found}; expected F or M, one of {EMOTIONS}, a line")
            dialogues.setdefault(row["dialogue"], []).append(Line(row["speaker"], row["emotion"], row["line"]))
    return dialogues


def dialogues_of_session(session: int, names: Sequence[str]) -> list[tuple[str, str]]:
    """(name in the corpus, name in the CSV) of a session's dialogues.

    The six scripts go round the sessions; session s and session s + 10 share an improvisation, so that the words of
    a held-out session were heard in training, as in KEMDy19, where every pair acts the same scripts.
    """
    scripts = [name for name in names if name.startswith("script")]
    impros = [name for name in names if name.startswith("impro")]
    script = scripts[(session - 1) % len(scripts)]
    first, second = session - 1, session - 1 + len(impros) // 2
    return [
        (script, script),
        (f"impro{first % N_IMPRO_NAMES + 1:02d}", impros[first % len(impros)]),
        (f"impro{(first + 1) % N_IMPRO_NAMES + 1:02d}", impros[second % len(impros)]),
    ]


def draw_speech(
    rng: np.random.Generator, speaker: str, emotion: str, own: Sequence[float], excitement: float
) -> Speech:
    """Rate, pitch, range and loudness of one utterance: the emotion's, the speaker's, a little chance.

    ``own`` is the speaker's (rate factor, pitch, volume); ``excitement`` the standardised arousal of this utterance
    above what is usual for its emotion, which the raters hear as well.
    """
    acting = ACTING[emotion]
    rate = BASE_RATE * acting.rate * own[0] * (1 + 0.03 * excitement + rng.normal(0, 0.03))
    volume = acting.volume + own[2] + 7 * excitement + rng.normal(0, 3)
    pitch = BASE_PITCH[speaker] + acting.pitch + own[1] + 3 * excitement + rng.normal(0, 2)
    spread = acting.range + rng.normal(0, 6)
    return Speech(
        voice=VOICES[speaker],
        rate=round(float(np.clip(rate, 110, 260))),
        volume=round(float(np.clip(volume, 35, 140))),  # from about 150 the peaks are clipped
        pitch=round(float(np.clip(pitch, 5, 95))),
        range=round(float(np.clip(spread, 5, 99))),
    )


def draw_rating(rng: np.random.Generator, emotion: str, excitement: float = 0.0, listening: bool = False) -> Rating:
    """Ten votes on somebody who feels ``emotion``; raters disagree more over some rows than over others."""
    agreement = rng.uniform(*AGREEMENT)
    labels = [emotion, *CONFUSIONS[emotion]]
    chances = [agreement, *((1 - agreement) * share for share in CONFUSIONS[emotion].values())]
    votes = rng.choice(len(labels), size=N_RATERS, p=chances)
    valence, arousal = ACTING[emotion].valence, ACTING[emotion].arousal + 0.35 * excitement
    if listening:
        arousal = ACTING["neutral"].arousal + LISTENER_AROUSAL * (arousal - ACTING["neutral"].arousal)
    affect = np.rint(rng.normal((valence, arousal), VOTE_SPREAD, size=(N_RATERS, 2))).clip(1, 5).astype(int)
    return Rating(
        emotions=tuple(labels[vote] for vote in votes),
        valences=tuple(affect[:, 0].tolist()),
        arousals=tuple(affect[:, 1].tolist()),
    )


def draw_reaction(rng: np.random.Generator, heard: str, own: str | None) -> str:
    """Emotion of a listener who hears ``heard`` and whose own neighbouring line acts ``own``."""
    if own is not None and rng.random() < OWN_LINE:
        return own
    return str(rng.choice(list(REACTIONS[heard]), p=list(REACTIONS[heard].values())))


def neighbouring_emotion(lines: Sequence[Line], position: int) -> str | None:
    """Emotion of the listener's next line, or else of her last one; None when she never speaks."""
    others = [*lines[position + 1 :], *reversed(lines[:position])]
    return next((line.emotion for line in others if line.speaker != lines[position].speaker), None)


def plan_dialogue(
    session: int, name: str, lines: Sequence[Line], own: dict[str, Sequence[float]], rng: np.random.Generator
) -> list[Utterance]:
    """Utterances of one acted dialogue, transcripts still without markup."""
    utterances = []
    sequence: Counter[str] = Counter()
    for position, line in enumerate(lines):
        sequence[line.speaker] += 1
        listener = "M" if line.speaker == "F" else "F"
        excitement = float(rng.normal())
        speech = draw_speech(rng, line.speaker, line.emotion, own[line.speaker], excitement)
        reaction = draw_reaction(rng, line.emotion, neighbouring_emotion(lines, position))
        ratings = {
            line.speaker: draw_rating(rng, line.emotion, excitement),
            listener: draw_rating(rng, reaction, listening=True),
        }
        number = sequence[line.speaker]
        utterances.append(
            Utterance(session, name, line.speaker, number, line.emotion, line.text, line.text, speech, ratings)
        )
    return utterances


def mark_up(template: str, line: str) -> str:
    """``line`` with a transcriber's markup."""
    first, _, rest = line.partition(" ")
    return template.format(line=line, first=first, rest=rest, word=first.rstrip(".,!?"))


def add_text_oddities(utterances: Sequence[Utterance], rng: np.random.Generator) -> list[Utterance]:
    """Markup in a few transcripts, none twice over, and the empty ones."""
    marked = list(utterances)
    order = iter(rng.permutation(len(utterances)).tolist())
    for template in MARKUP[: len(utterances) // UTTERANCES_A_MARK]:
        i = next(order)
        marked[i] = replace(marked[i], transcript=mark_up(template, marked[i].line))
    for transcript, least in zip(EMPTY_TRANSCRIPTS, MIN_FOR_EMPTY, strict=True):
        if len(utterances) >= least:
            i = next(order)
            marked[i] = replace(marked[i], transcript=transcript)
    return marked


def add_misspellings(utterances: Sequence[Utterance], rng: np.random.Generator) -> list[Utterance]:
    """``disqust`` for ``disgust`` in a few rows of the speakers' own tables."""
    misspelt = list(utterances)
    candidates = [i for i, u in enumerate(utterances) if "disgust" in u.ratings[u.speaker].total_emotion]
    for i in rng.permutation(candidates)[:N_MISSPELT].astype(int).tolist():
        u = utterances[i]
        rating = replace(u.ratings[u.speaker], misspelt=True)
        misspelt[i] = replace(u, ratings={**u.ratings, u.speaker: rating})
    return misspelt


def draw_conflict(rng: np.random.Generator, rating: Rating) -> Rating:
    """A second rating of the same row with another majority."""
    while True:
        second = draw_rating(rng, str(rng.choice(EMOTIONS)), listening=True)
        if second.total_emotion != rating.total_emotion:
            return second


def plan_sample(seed: int = 0, sessions: int = N_SESSIONS, dialogues: int = 2, utterances: int | None = None) -> Plan:
    """Decide everything that can be decided without a synthesiser; arguments as in :func:`make_sample`."""
    check_arguments(seed, sessions, dialogues, utterances)
    lines = read_dialogues()
    planned: list[Utterance] = []
    for session in range(1, sessions + 1):
        speakers = np.random.default_rng([seed, STREAM_SPEAKERS, session])
        own = {who: speakers.normal((1.0, 0.0, 0.0), (0.05, 4.0, 4.0)).tolist() for who in "FM"}
        rng = np.random.default_rng([seed, STREAM_RATINGS, session])
        for name, source in dialogues_of_session(session, list(lines))[:dialogues]:
            planned += plan_dialogue(session, name, lines[source][:utterances], own, rng)

    rng = np.random.default_rng([seed, STREAM_ODDITIES])
    planned = add_misspellings(add_text_oddities(planned, rng), rng)
    # KEMDy19 has its repeated listener ids in session 4
    repeated = [u for u in planned if u.session == min(4, sessions)][-1]
    heard = repeated.ratings["M" if repeated.speaker == "F" else "F"]
    longest = max(planned, key=lambda u: len(u.line)).line
    plain = [u.segment_id for u in planned if u.transcript == u.line != longest and u != repeated]
    missing = plain[int(rng.integers(len(plain)))] if len(planned) >= MIN_FOR_MISSING_WAV else None
    return Plan(
        seed=seed,
        utterances=tuple(planned),
        missing_wav=missing,
        blank_biosignals=next(u.folder for u in planned if u.session == min(2, sessions)),
        repeated=(repeated.segment_id, draw_conflict(rng, heard)),
        crlf_table=(min(3, sessions), "M"),
        cp949_table=(min(5, sessions), "F"),
    )


def check_arguments(seed: int, sessions: int, dialogues: int, utterances: int | None) -> None:
    """Raise InputError, naming the argument, for a value no sample can be made with."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; it must be 0 to {2**32 - 1}")
    if not 1 <= sessions <= N_SESSIONS:
        raise InputError(f"sessions is {sessions}; it must be 1 to {N_SESSIONS}")
    if not 1 <= dialogues <= MAX_DIALOGUES:
        raise InputError(f"dialogues is {dialogues}; it must be 1 to {MAX_DIALOGUES}")
    if utterances is not None and utterances < 1:
        raise InputError(f"utterances is {utterances}; it must be 1 or more")


def speak(utterances: Sequence[Utterance], folder: Path) -> Iterator[float]:
    """Write the wavs below ``folder``; yields the seconds of each.

    A process of its own does it: espeak-ng keeps some of its state, such as the phase of its flutter, until the
    process ends, so that a second corpus made in one process would differ from the first.
    """
    jobs = [[str(folder / f"{u.stem}.wav"), u.line, *vars(u.speech).values()] for u in utterances]
    command = [sys.executable, str(Path(__file__).resolve()), "--speak"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            with suppress(BrokenPipeError):  # it died before reading: its message is below
                process.stdin.write(json.dumps(jobs).encode())
                process.stdin.close()
            for _ in utterances:
                answer = process.stdout.readline()
                if not answer:
                    error = process.stderr.read().decode(errors="replace").strip().splitlines()
                    raise RuntimeError(f"espeak-ng stopped: {error[-1] if error else f'status {process.wait()}'}")
                yield float(answer)
        finally:
            process.kill()  # when the build is interrupted it must not go on speaking


def synthesise() -> None:
    """The speaking process: jobs come as JSON on stdin, the seconds of each wav written go to stdout, one a line."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    samples = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(wav: object, n: int, _events: object) -> int:
        if wav and n > 0:
            samples.extend(ctypes.string_at(wav, 2 * n))
        return 0

    library.espeak_SetSynthCallback(receive)
    synchronous, utf8 = 2, 1  # AUDIO_OUTPUT_SYNCHRONOUS, espeakCHARS_UTF8 of speak_lib.h
    sample_rate = library.espeak_Initialize(synchronous, 0, os.fsencode(espeakng_loader.get_data_path()), 0)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak_Initialize answered {sample_rate}; reinstall espeakng-loader")
    for path, text, voice, *parameters in json.load(sys.stdin.buffer):
        samples.clear()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice}")
        for number, value in enumerate(parameters, start=1):  # espeakRATE, espeakVOLUME, espeakPITCH, espeakRANGE
            library.espeak_SetParameter(number, value, 0)
        utf8_text = text.encode()
        if library.espeak_Synth(utf8_text, len(utf8_text) + 1, 0, 0, 0, utf8, None, None) != 0 or not samples:
            raise RuntimeError(f"espeak-ng could not speak {text!r}")
        with wave.open(path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)  # its own, 22,050 Hz, so that readers have something to resample
            file.writeframes(samples)
        print(len(samples) / 2 / sample_rate, flush=True)


def header_rows(korean: bool = False) -> list[list[str]]:
    """The two header rows of an annotation table, 13 + 3 x 10 cells each; raters' names vary in the corpus."""
    sex = ("여", "남") if korean else ("F", "M")
    raters = [f"{'평가' if korean else 'Eval'}{n:02d}{sex[(n + 1) % 2]}" for n in range(1, N_RATERS + 1)]
    groups = [cell for name in HEADER_GROUPS for cell in (name, "")]
    first = ["Numb", *groups, "Segment ID", *(c for name in ("Total Evaluation", *raters) for c in (name, "", ""))]
    second = ["", *("start", "end") * len(HEADER_GROUPS), "", *("Emotion", "Valence", "Arousal") * (1 + N_RATERS)]
    return [first, second]


def time_cells(utterances: Sequence[Utterance], seconds: Sequence[float], plan: Plan) -> list[list[str]]:
    """The eight start and end cells of each utterance of one session, in seconds."""
    rng = np.random.default_rng([plan.seed, STREAM_CLOCK, utterances[0].session])
    delays = [delay + rng.normal(0, 0.3) for delay in BIOSIGNAL_DELAY.values()]
    clock, folder, rows = 0.0, utterances[0].folder, []
    for utterance, duration in zip(utterances, seconds, strict=True):
        if utterance.folder != folder:
            clock, folder = clock + rng.uniform(*DIALOGUE_PAUSE), utterance.folder
        row = [f"{clock:.3f}", f"{clock + duration:.3f}"]
        for delay in delays:
            blank = utterance.folder == plan.blank_biosignals
            row += ["", ""] if blank else [f"{clock + delay:.3f}", f"{clock + delay + duration:.3f}"]
        rows.append(row)
        clock += duration + rng.uniform(*PAUSE)
    return rows


def write_table(folder: Path, actor: str, utterances: Sequence[Utterance], times: list[list[str]], plan: Plan) -> None:
    """``SessionNN_<actor>_res.csv``: the ratings of one actor over one session."""
    session = utterances[0].session
    korean = (session, actor) == plan.cp949_table
    rows = header_rows(korean)
    for utterance, time in zip(utterances, times, strict=True):
        ratings = [utterance.ratings[actor]]
        if utterance.speaker != actor and utterance.segment_id == plan.repeated[0]:
            ratings.append(plan.repeated[1])
        for rating in ratings:
            rows.append([str(len(rows) - 1), *time, utterance.segment_id, *rating.cells()])
    crlf = (session, actor) == plan.crlf_table
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n" if crlf else "\n").writerows(rows)
    encoding = "cp949" if korean else "utf-8-sig" if crlf else "utf-8"
    (folder / f"Session{session:02d}_{actor}_res.csv").write_bytes(text.getvalue().encode(encoding))


def write_text_encoder(folder: Path, lines: Sequence[str], seed: int) -> None:
    """A randomly initialised BERT of 768 dimensions and a SentencePiece model of ``lines``, in KoBERT's file layout."""
    import sentencepiece
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir()
    pieces = io.BytesIO()
    unk, pad, *control = SPECIAL_PIECES
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=pieces,
        model_type="unigram",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,  # more would make the scores depend on the order they finish in
        minloglevel=2,  # errors only
        unk_id=0,
        pad_id=1,
        bos_id=-1,
        eos_id=-1,
        unk_piece=unk,
        pad_piece=pad,
        control_symbols=control,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=1), encoding="utf-8")

    config = BertConfig(
        vocab_size=sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue()).vocab_size(),
        hidden_size=TEXT_DIM,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=TEXT_DIM,
        max_position_embeddings=512,
        pad_token_id=SPECIAL_PIECES.index("[PAD]"),
        architectures=["BertModel"],
        random_weights=True,  # which pre-processing records
    )
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
        torch.default_generator.manual_seed(seed)
        model = BertModel(config)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A working folder that becomes ``out`` at the end and vanishes on any failure."""
    refuse_existing(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside out, so that the rename stays within one file system
        with TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as holder:
            working = Path(holder, out.name)  # the holder is private to the user; the corpus gets the usual permissions
            working.mkdir()
            yield working
            refuse_existing(out)
            working.rename(out)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}); nothing is left of it") from error


def refuse_existing(out: Path) -> None:
    """Raise `InputError` when anything at all lies at ``out``."""
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already and is left as it is; give another --out or remove it first")


def mark_as_synthetic(folder: Path, seed: int) -> None:
    """Leave the file by which every command tells that this is no recording of people."""
    note = "computer speech and simulated raters, made by data/make_sample.py; says nothing about emotion recognition"
    write_json(folder / MARKER, {"note": note, "seed": seed})


def write_sample(plan: Plan, out: Path, progress: bool) -> None:
    """Write a planned corpus to ``out``, which must not exist."""
    utterances = plan.utterances
    with (
        whole_or_nothing(out) as folder,
        tqdm(total=len(utterances) + ENCODER_STEPS, unit="step", disable=not progress) as bar,
    ):
        bar.set_description("transcripts")
        for utterance in utterances:
            path = folder / f"{utterance.stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{utterance.transcript}\n".encode() if utterance.transcript else b"")

        bar.set_description("speech")
        seconds = {}
        for utterance, duration in zip(utterances, speak(utterances, folder), strict=True):
            seconds[utterance.segment_id] = duration
            bar.update()
        for utterance in utterances:
            if utterance.segment_id == plan.missing_wav:
                (folder / f"{utterance.stem}.wav").unlink()

        bar.set_description("tables and text encoder")
        (folder / "annotation").mkdir()
        for session in sorted({u.session for u in utterances}):
            own = [u for u in utterances if u.session == session]
            times = time_cells(own, [seconds[u.segment_id] for u in own], plan)
            for actor in "FM":
                write_table(folder / "annotation", actor, own, times, plan)
        lines = [line.text for dialogue in read_dialogues().values() for line in dialogue]
        write_text_encoder(folder / "kobert", lines, plan.seed)
        mark_as_synthetic(folder, plan.seed)
        bar.update(ENCODER_STEPS)


def make_sample(
    out: Path,
    seed: int = 0,
    sessions: int = N_SESSIONS,
    dialogues: int = 2,
    utterances: int | None = None,
    *,
    progress: bool = False,
) -> None:
    """Make the sample corpus in a new folder.

    Parameters
    ----------
    out : folder to make; it appears whole at the end, or not at all
    seed : the same seed gives the same bytes
    sessions : 1 to 20; ``dialogues`` a session (1 to 3), each cut after ``utterances`` (None: whole, about a dozen)
    progress : whether to show a progress bar on stderr

    Raises
    ------
    InputError : ``out`` exists, which is then left as it is; it cannot be written; or a number is out of range
    """
    write_sample(plan_sample(seed, sessions, dialogues, utterances), Path(out).absolute(), progress)


def summary(plan: Plan, out: Path) -> str:
    """What was made, in two lines: utterances, minutes of audio, the speakers' majority labels, the folder."""
    frames = 0
    for path in out.glob("wav/*/*/*.wav"):
        with wave.open(str(path)) as file:
            frames, sample_rate = frames + file.getnframes(), file.getframerate()
    totals = Counter(u.ratings[u.speaker].total_emotion for u in plan.utterances)
    classes = [f"{emotion} {totals[emotion]}" for emotion in sorted(EMOTIONS, key=lambda name: -totals[name])]
    tied = sum(count for label, count in totals.items() if ";" in label)
    return (
        f"{len(plan.utterances)} utterances, {frames / sample_rate / 60:.1f} minutes of synthetic speech in {out}\n"
        f"speakers' majority labels: {', '.join(classes)}, tied {tied}"
    )


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Make the synthetic sample corpus in the raw layout of KEMDy19.", allow_abbrev=False
    )
    parser.add_argument("--layout", choices=("kemdy19", "kemdy20"), default="kemdy19", help="whose (%(default)s)")
    parser.add_argument(
        "--out", type=file_path, help="new folder to make (default: sample, or sample_kemdy20, beside this)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    parser.add_argument("--sessions", type=int, help=f"sessions, 1 to {N_SESSIONS}, or to 40 of KEMDy20 (default: all)")
    parser.add_argument("--utterances", type=int, help="cut every dialogue after this many (default: whole dialogues)")
    parser.add_argument("--speak", action="store_true", help=argparse.SUPPRESS)  # the speaking process, see speak()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for something to correct in the call, 130 for an interrupt."""
    args = get_args_parser().parse_args(argv)
    if args.speak:
        synthesise()
        return 0

    def build() -> None:
        given = {"seed": args.seed, "utterances": args.utterances}
        if args.sessions is not None:
            given["sessions"] = args.sessions
        if args.layout == "kemdy20":
            from sample_kemdy20 import make_sample_kemdy20

            print(make_sample_kemdy20(args.out or OUT.with_name("sample_kemdy20"), progress=True, **given))
            return
        plan, out = plan_sample(**given), args.out or OUT
        write_sample(plan, out.absolute(), progress=True)
        print(summary(plan, out))

    return run_command(build)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a build that is ended cleans up as after Ctrl-C
    sys.exit(main())
