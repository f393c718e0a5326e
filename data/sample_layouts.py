"""The sample corpora: their lines, simulated raters, tables in the layouts of KEMDy19 and KEMDy20, and speech."""

from __future__ import annotations

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
from dataclasses import dataclass, replace
from pathlib import Path

import espeakng_loader
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that the commands work from any folder

from constants import EMOTIONS, N_RATERS

FOLDER = Path(__file__).resolve().parent
# By emotion: how it is spoken (rate is a factor, pitch is added to the speaker's) and rated (1 to 5), what raters take
# it for who do not recognise it, what a listener is likely to feel. And markup of a {line}, with its {first} word.
ACTING, CONFUSIONS, REACTIONS, MARKUP = json.loads((FOLDER / "sample_acting.json").read_text("utf-8")).values()
N_SCRIPTS, N_IMPROVISATIONS = 6, 10  # dialogues in that file
N_IMPRO_NAMES = 4  # improvisations are named impro01 to impro04 in every session, whatever their content

VOICES = {"F": "ko+f4", "M": "ko+m3"}  # f2 and f3 add noise seeded by the clock, which could not be repeated
BASE_RATE = 180  # words a minute: 4 to 5 s an utterance, as in KEMDy19
BASE_PITCH = {"F": 56, "M": 40}  # of espeak-ng's 0 to 99: about 190 Hz and 100 Hz

AGREEMENT = (0.50, 0.90)  # share of the raters who recognise the acted emotion, drawn for each row
OWN_LINE = 0.5  # chance that a listener already feels the emotion of her own neighbouring line
LISTENER_AROUSAL = 0.6  # factor of a listener's arousal beyond that of neutral
VOTE_SPREAD = 0.7  # standard deviation of a rater's valence or arousal before rounding

UTTERANCES_A_MARK = 8  # at most one transcript with markup in so many utterances
# Training refuses a corpus in which too many wavs or transcripts are missing, so a small one has none missing
MIN_FOR_EMPTY = {"": 25, "n/": 60}  # empty transcripts, and the utterances from which there is one
MIN_FOR_MISSING_WAV = 60
N_MISSPELT = 4  # rows with "disqust"
MISSPELT_CELLS = 3 * (1 + N_RATERS // 2)  # of such a row: the total and half of the raters, so that both forms occur

COLUMNS = ("Emotion", "Valence", "Arousal")  # of each rater
CLOCKS = {"ECG": 2.0, "E4-EDA": 5.0, "E4-TEMP": 5.0}  # s after the wav's clock, about
PAUSE = (0.3, 1.2)  # s between two utterances
DIALOGUE_PAUSE = (20.0, 40.0)  # s between two dialogues

# Streams of random numbers
STREAM_SPEAKERS, STREAM_RATINGS, STREAM_ODDITIES, STREAM_CLOCK = range(4)


@dataclass(frozen=True)
class Rating:
    """The ten raters' votes on one actor during one utterance; of its cells the first `misspelt` read "disqust"."""

    emotions: tuple[str, ...]
    valences: tuple[int, ...]
    arousals: tuple[int, ...]
    misspelt: int = 0

    @property
    def total_emotion(self) -> str:
        votes = Counter(self.emotions)
        return ";".join(sorted(emotion for emotion in votes if votes[emotion] == max(votes.values())))

    def cells(self) -> list[str]:
        total = [self.total_emotion, f"{np.mean(self.valences):.1f}", f"{np.mean(self.arousals):.1f}"]
        votes = zip(self.emotions, self.valences, self.arousals, strict=True)
        cells = total + [str(cell) for vote in votes for cell in vote]
        return [cell.replace("disgust", "disqust") for cell in cells[: self.misspelt]] + cells[self.misspelt :]


@dataclass(frozen=True)
class Utterance:
    """A planned utterance: everything but its sound and its place in time."""

    session: int
    id: str
    folder: Path  # of its wav and transcript, in the corpus
    speaker: str  # F or M
    line: str  # what is spoken
    transcript: str  # what the .txt file holds
    speech: list  # of `draw_speech`
    ratings: dict[str, Rating]  # by actor, F or M


def read_dialogues() -> dict[str, list[tuple[str, str, str]]]:
    """(speaker, emotion, text) of each line by dialogue: script01.., which several pairs act, and impro_a.. ."""
    dialogues = {}
    with (FOLDER / "sample_dialogues.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            dialogues.setdefault(row["dialogue"], []).append((row["speaker"], row["emotion"], row["line"]))
    return dialogues


def draw_speaker(rng: np.random.Generator) -> list[float]:
    """A speaker's factor of the rate, and what is added to pitch and volume."""
    return rng.normal((1.0, 0.0, 0.0), (0.05, 4.0, 4.0)).tolist()


def draw_speech(rng: np.random.Generator, sex: str, emotion: str, speaker: list[float], excitement: float) -> list:
    """espeak-ng's parameters of an utterance; `excitement` is its standardised arousal relative to the emotion's."""
    rate, pitch, spread, volume, *_ = ACTING[emotion].values()
    rate *= BASE_RATE * speaker[0] * (1 + 0.03 * excitement + rng.normal(0, 0.03))
    volume += speaker[2] + 7 * excitement + rng.normal(0, 3)
    pitch += BASE_PITCH[sex] + speaker[1] + 3 * excitement + rng.normal(0, 2)
    spread += rng.normal(0, 6)
    limits = (110, 260), (35, 140), (5, 95), (5, 99)  # from a volume of about 150 the peaks are clipped
    values = (rate, volume, pitch, spread)
    return [VOICES[sex], *(round(float(np.clip(v, *limit))) for v, limit in zip(values, limits, strict=True))]


def draw_rating(rng: np.random.Generator, emotion: str, excitement: float = 0.0, listening: bool = False) -> Rating:
    """Ten votes on an actor who feels `emotion`; the raters agree less on some rows than on others."""
    agreement = rng.uniform(*AGREEMENT)
    labels = [emotion, *CONFUSIONS[emotion]]
    chances = [agreement, *((1 - agreement) * share for share in CONFUSIONS[emotion].values())]
    votes = rng.choice(len(labels), size=N_RATERS, p=chances)
    *_, valence, arousal = ACTING[emotion].values()
    arousal += 0.35 * excitement
    if listening:
        calm = ACTING["neutral"]["arousal"]
        arousal = calm + LISTENER_AROUSAL * (arousal - calm)
    affect = np.rint(rng.normal((valence, arousal), VOTE_SPREAD, size=(N_RATERS, 2))).clip(1, 5).astype(int)
    return Rating(tuple(labels[vote] for vote in votes), tuple(affect[:, 0].tolist()), tuple(affect[:, 1].tolist()))


def add_text_oddities(utterances: Sequence[Utterance], rng: np.random.Generator) -> list[Utterance]:
    """Markup in a few transcripts, each template at most once, and empty transcripts."""
    marked = list(utterances)
    order = rng.permutation(len(utterances)).tolist()
    templates = MARKUP[: len(utterances) // UTTERANCES_A_MARK]
    templates = [*templates, *(empty for empty, least in MIN_FOR_EMPTY.items() if len(utterances) >= least)]
    for template, i in zip(templates, order, strict=False):
        line = marked[i].line
        first, _, rest = line.partition(" ")
        transcript = template.format(line=line, first=first, rest=rest, word=first.rstrip(".,!?"))
        marked[i] = replace(marked[i], transcript=transcript)
    return marked


def spread(names: Sequence[str], width: int) -> list[str]:
    """Each name over so many columns of a table."""
    return [cell for name in names for cell in (name, *[""] * (width - 1))]


def encode_table(rows: Sequence[Sequence[str]], encoding: str = "utf-8", newline: str = "\n") -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator=newline).writerows(rows)
    return text.getvalue().encode(encoding)


class SampleKEMDy19:
    """Two actors a session, a script and an improvisation each, which raters judge speaking and listening.

    Its oddities, in small numbers: markup and empty transcripts, a missing wav, a dialogue without biosignals,
    misspelt labels, a listener's row twice with two ratings, a table with a byte order mark and CRLF, one in CP949.
    """

    n_sessions, cp949 = 20, False  # of the whole sample; of the transcripts but session 2's

    def __init__(self, seed: int, sessions: int, n_utterances: int | None) -> None:
        self.seed, self.sessions, self.n_utterances = seed, sessions, n_utterances
        planned = [u for session in range(1, sessions + 1) for u in self.plan_session(session)]
        rng = np.random.default_rng([seed, STREAM_ODDITIES])
        self.utterances = planned = add_misspellings(add_text_oddities(planned, rng), rng)  # in order of time
        # KEMDy19 has its repeated listener ids in session 4
        self.repeated = [u for u in planned if u.session == min(4, sessions)][-1]
        longest = max(planned, key=lambda u: len(u.line)).line
        plain = [u.id for u in planned if u.transcript == u.line != longest and u != self.repeated]
        self.missing_wav = plain[int(rng.integers(len(plain)))] if len(planned) >= MIN_FOR_MISSING_WAV else None
        first = self.repeated.ratings["M" if self.repeated.speaker == "F" else "F"]
        self.second_rating = first
        while self.second_rating.total_emotion == first.total_emotion:
            self.second_rating = draw_rating(rng, str(rng.choice(EMOTIONS)), listening=True)
        self.without_biosignals = next(u.folder for u in planned if u.session == min(2, sessions))

    def plan_session(self, session: int) -> Iterator[Utterance]:
        """The six scripts alternate; session s and session s + 10 share an improvisation.

        So the sentences of a held-out session occur in training, as in KEMDy19, where all pairs act the same scripts.
        """
        dialogues = read_dialogues()
        script = f"script{(session - 1) % N_SCRIPTS + 1:02d}"
        impro = [name for name in dialogues if name.startswith("impro")][(session - 1) % N_IMPROVISATIONS]
        speakers = np.random.default_rng([self.seed, STREAM_SPEAKERS, session])
        own = {who: draw_speaker(speakers) for who in "FM"}
        rng = np.random.default_rng([self.seed, STREAM_RATINGS, session])
        for name, source in ((script, script), (f"impro{(session - 1) % N_IMPRO_NAMES + 1:02d}", impro)):
            lines = dialogues[source][: self.n_utterances]
            dialogue, sequence = f"Sess{session:02d}_{name}", Counter()
            for position, (speaker, emotion, text) in enumerate(lines):
                sequence[speaker] += 1
                excitement = float(rng.normal())
                speech = draw_speech(rng, speaker, emotion, own[speaker], excitement)
                reaction = draw_reaction(rng, lines, position)
                ratings = {
                    speaker: draw_rating(rng, emotion, excitement),
                    "M" if speaker == "F" else "F": draw_rating(rng, reaction, listening=True),
                }
                folder = Path("wav", f"Session{session:02d}", dialogue)
                utterance = f"{dialogue}_{speaker}{sequence[speaker]:03d}"
                yield Utterance(session, utterance, folder, speaker, text, text, speech, ratings)

    def tables(self, seconds: dict[str, float]) -> Iterator[tuple[str, bytes]]:
        """Paths and contents of the annotation tables, `SessionNN_<actor>_res.csv`; seconds by id."""
        for session in range(1, self.sessions + 1):
            own = [u for u in self.utterances if u.session == session]
            times = self.time_cells(own, seconds)
            for actor in "FM":
                korean = (session, actor) == (min(5, self.sessions), "F")
                crlf = (session, actor) == (min(3, self.sessions), "M")
                name, sex = ("평가", "여남") if korean else ("Eval", "FM")
                raters = [f"{name}{n:02d}{sex[(n + 1) % 2]}" for n in range(1, N_RATERS + 1)]
                first = ["Numb", *spread(["Wav", *CLOCKS], 2), "Segment ID", *spread(["Total Evaluation", *raters], 3)]
                rows = [first, ["", *("start", "end") * 4, "", *COLUMNS * (1 + N_RATERS)]]
                for u, time in zip(own, times, strict=True):
                    again = u == self.repeated and u.speaker != actor
                    for rating in (u.ratings[actor], self.second_rating)[: 1 + again]:
                        rows.append([str(len(rows) - 1), *time, u.id, *rating.cells()])
                encoding = "cp949" if korean else "utf-8-sig" if crlf else "utf-8"
                path = f"annotation/Session{session:02d}_{actor}_res.csv"
                yield path, encode_table(rows, encoding, "\r\n" if crlf else "\n")

    def time_cells(self, utterances: Sequence[Utterance], seconds: dict[str, float]) -> list[list[str]]:
        """The eight start and end cells of each utterance of a session, in seconds."""
        rng = np.random.default_rng([self.seed, STREAM_CLOCK, utterances[0].session])
        delays = [delay + rng.normal(0, 0.3) for delay in CLOCKS.values()]
        clock, folder, times = 0.0, utterances[0].folder, []
        for u in utterances:
            if u.folder != folder:
                clock, folder = clock + rng.uniform(*DIALOGUE_PAUSE), u.folder
            end = clock + seconds[u.id]
            row = [f"{clock:.3f}", f"{end:.3f}"]
            for delay in delays:
                blank = u.folder == self.without_biosignals
                row += ["", ""] if blank else [f"{clock + delay:.3f}", f"{clock + delay + seconds[u.id]:.3f}"]
            times.append(row)
            clock = end + rng.uniform(*PAUSE)
        return times


def draw_reaction(rng: np.random.Generator, lines: Sequence[tuple[str, str, str]], position: int) -> str:
    """Emotion of the listener of a line: often that of her own next line, or else of her last one."""
    speaker, heard, _ = lines[position]
    own = [line for line in (*lines[position + 1 :], *reversed(lines[:position])) if line[0] != speaker]
    if own and rng.random() < OWN_LINE:
        return own[0][1]
    return str(rng.choice(list(REACTIONS[heard]), p=list(REACTIONS[heard].values())))


def add_misspellings(utterances: list[Utterance], rng: np.random.Generator) -> list[Utterance]:
    """`disqust` for `disgust` in a few rows of the speakers' own tables."""
    candidates = [i for i, u in enumerate(utterances) if "disgust" in u.ratings[u.speaker].total_emotion]
    for i in rng.permutation(candidates)[:N_MISSPELT].astype(int).tolist():
        u = utterances[i]
        u.ratings[u.speaker] = replace(u.ratings[u.speaker], misspelt=MISSPELT_CELLS)
    return utterances


class SampleManifest(SampleKEMDy19):
    """The speakers' rows of `SampleKEMDy19` as a manifest."""

    def tables(self, seconds: dict[str, float]) -> Iterator[tuple[str, bytes]]:
        head = ["id", "wav", "session", "dialogue", "speaker", "text", "emotion", "valence", "arousal"]
        rows = [head + [f"votes_{emotion}" for emotion in EMOTIONS]]
        for u in self.utterances:
            rating, place = u.ratings[u.speaker], [f"{u.folder.as_posix()}/{u.id}.wav", str(u.session), u.folder.name]
            votes = [str(rating.emotions.count(emotion)) for emotion in EMOTIONS]
            rows.append([u.id, *place, u.speaker, u.transcript, *rating.cells()[:3], *votes])
        yield "manifest.csv", encode_table(rows)


# KEMDy20

DIALOGUES = 2  # of the six topics of a session
NEUTRAL = 0.8  # chance that a line is said without its emotion: KEMDy20 is neutral for 87%
PAUSE20 = (-0.4, 1.0)  # s between two utterances: neighbours may overlap
TIE = tuple(EMOTIONS[:5]) * 2  # ten votes, two for each of five labels
STREAM_KEMDY20 = 20


class SampleKEMDy20:
    """As `SampleKEMDy19`; the last session is of one sex, the first utterance's votes tie, one table has wrong ids."""

    n_sessions, missing_wav, cp949 = 40, None, True

    def __init__(self, seed: int, sessions: int, n_utterances: int | None) -> None:
        self.seed, self.sessions, self.n_utterances = seed, sessions, n_utterances
        planned = [u for session in range(1, sessions + 1) for u in self.plan_session(session)]
        ((speaker, rating),) = planned[0].ratings.items()
        planned[0] = replace(planned[0], ratings={speaker: replace(rating, emotions=TIE)})
        self.utterances = add_text_oddities(planned, np.random.default_rng([seed, STREAM_KEMDY20]))

    def plan_session(self, session: int) -> Iterator[Utterance]:
        rng = np.random.default_rng([self.seed, STREAM_KEMDY20, session])
        sexes = {"F": "F", "M": "F" if session == self.sessions else "M"}
        users = {"F": 2 * session - 1, "M": 2 * session}
        own = {who: draw_speaker(rng) for who in "FM"}
        dialogues, folder = list(read_dialogues().values()), Path("wav", f"Session{session:02d}")
        for topic in range(1, DIALOGUES + 1):
            sequence: Counter[str] = Counter()
            for who, acted, text in dialogues[(DIALOGUES * session + topic) % len(dialogues)][: self.n_utterances]:
                excitement = float(rng.normal())
                emotion = "neutral" if rng.random() < NEUTRAL else acted
                sequence[who] += 1
                user = f"User{users[who]:03d}{sexes[who]}"
                utterance = f"Sess{session:02d}_script{topic:02d}_{user}_{sequence[who]:03d}"
                speech = draw_speech(rng, sexes[who], emotion, own[who], excitement)
                # The totals spell "disqust", the votes do not
                rating = replace(draw_rating(rng, emotion, excitement), misspelt=1)
                yield Utterance(session, utterance, folder, who, text, text, speech, {who: rating})

    def tables(self, seconds: dict[str, float]) -> Iterator[tuple[str, bytes]]:
        """Paths and contents of `SessNN_eval.csv`; session 3 has a byte order mark; seconds by id."""
        for session in range(1, self.sessions + 1):
            rng, clock = np.random.default_rng([self.seed, STREAM_KEMDY20, session, 1]), 0.0
            raters = [f"rater{(session * N_RATERS + n) % 80:02d}" for n in range(N_RATERS)]
            first = ["Numb", "WAV", "", "Segment ID", *spread(["Total Evaluation", *raters], 3)]
            rows = [first, ["", "start", "end", "", *COLUMNS * (1 + N_RATERS)]]
            # One table, 17 as in KEMDy20 or the last one, has the ids of the session before
            prefix = session - 1 if session > 1 and session == min(17, self.sessions) else session
            for u in (u for u in self.utterances if u.session == session):
                end, (rating,) = clock + seconds[u.id], u.ratings.values()
                place = [str(len(rows) - 1), f"{clock:.3f}", f"{end:.3f}", f"Sess{prefix:02d}{u.id[6:]}"]
                rows.append([*place, *rating.cells()])
                clock = end + rng.uniform(*PAUSE20)
            yield f"annotation/Sess{session:02d}_eval.csv", encode_table(rows, "utf-8-sig" if session == 3 else "utf-8")


# Speech


def speak(jobs: Sequence[list], progress: bool) -> list[float]:
    """Write wavs and return the seconds of each; a job is [path, text, voice, rate, volume, pitch, range].

    In a process of its own: espeak-ng keeps some state, such as the phase of its flutter, until the process ends.
    """
    work = json.dumps({"jobs": jobs, "progress": progress}).encode()
    done = subprocess.run([sys.executable, __file__], input=work, stdout=subprocess.PIPE, check=True)
    if isinstance(answer := json.loads(done.stdout), str):
        raise OSError(answer)
    return answer


def synthesise(jobs: Sequence[list], progress: bool) -> list[float]:
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
        raise RuntimeError(f"espeak_Initialize returned {sample_rate}; reinstall espeakng-loader")
    seconds = []
    for path, text, voice, *parameters in tqdm(jobs, "speech", unit="wav", disable=not progress):
        samples.clear()
        library.espeak_SetVoiceByName(voice.encode())
        for number, value in enumerate(parameters, start=1):  # espeakRATE, espeakVOLUME, espeakPITCH, espeakRANGE
            library.espeak_SetParameter(number, value, 0)
        content = text.encode()
        library.espeak_Synth(content, len(content) + 1, 0, 0, 0, utf8, None, None)
        with wave.open(path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)  # espeak-ng's 22,050 Hz, so that readers have to resample
            file.writeframes(samples)
        seconds.append(len(samples) / 2 / sample_rate)
    return seconds


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    try:
        answer = synthesise(**json.load(sys.stdin.buffer))
    except OSError as error:  # such as a full disk
        answer = str(error)
    print(json.dumps(answer))
