import json
import shutil

import numpy as np
import pandas as pd
import pytest
from compared_runs import make_arrays
from sklearn.metrics import accuracy_score, f1_score
from small_runs import only_run, options

import main as program
from constants import EMOTIONS
from corpora.annotation import Annotation, load_annotation
from corpora.registry import corpus_of, parse_id
from metric import ccc
from reports.sentences import describe_parts, figures_by_part, labels_of_sentences, look_up, normalise

LABELS = {name: number for number, name in enumerate(EMOTIONS)}


def annotation(texts: list[str] | None, labels: list[str]) -> Annotation:
    """Utterances with these transcripts and labels, `;` between those of a tie."""
    majority = np.array([[name in row.split(";") for name in EMOTIONS] for row in labels], dtype=np.float32)
    n = len(labels)
    return Annotation([f"Sess01_script01_F{i:03}" for i in range(n)], np.ones(n), np.ones(n), majority, text=texts)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("그래, 알았어.", "그래 알았어!", True),
        ("b/ 그래 (알았어+응) n/", "그래알았어응", True),
        ("그래 알았어", "\u1100\u1173\u1105\u1162 알았어", True),  # letters composed or not
        ("QR코드 112", "qr코드112", True),
        ("그래 알았어", "그래 몰랐어", False),
    ],
)
def test_a_sentence_is_its_letters(one, other, same):
    assert (normalise(one) == normalise(other)) is same


def test_labels_are_counted_by_sentence_and_short_ones_left_out():
    texts = ["나는 안 간다.", "나는 안간다", "응 그래", "다른 말을 했다", "나는 안 간다!"]
    known = labels_of_sentences(annotation(texts, ["angry", "angry;sad", "happy", "neutral", "sad"]), np.arange(4))
    assert known.keys() == {"나는안간다", "다른말을했다"}
    assert dict(zip(EMOTIONS, known["나는안간다"].tolist(), strict=True)) == dict.fromkeys(EMOTIONS, 0) | {
        "angry": 2,
        "sad": 1,
    }
    assert labels_of_sentences(annotation(None, ["angry"]), np.arange(1)) is None
    assert labels_of_sentences(annotation(["", "말을 했다"], ["angry"] * 2), np.arange(1)) is None


def test_a_known_sentence_gets_its_commonest_label_and_another_the_majority():
    counts = {"a": {"angry": 2, "sad": 3}, "b": {"happy": 1, "neutral": 1}, "c": {"disgust": 1, "happy": 1}}
    known = {s: np.array([found.get(name, 0) for name in EMOTIONS]) for s, found in counts.items()}
    found = look_up(["a", "b", "c", "d"], known, LABELS["neutral"])
    assert [EMOTIONS[label] for label in found] == ["sad", "neutral", "disgust", "neutral"]


def test_only_kemdy19_has_dialogues_with_and_without_a_script():
    ids = {"Sess01_script01_F001": True, "Sess01_impro02_M011": False, "Sess01_script01_User001F_001": None}
    assert {segment: corpus_of(segment).is_scripted(parse_id(segment)) for segment in ids} == ids


# Of a test

IDS = [f"Sess01_{kind}{n:02}_F{place:03}" for kind in ("script", "impro") for n in (1, 2) for place in range(15)]
TEXTS = [["나는 안 간다", "응", f"처음 듣는 말 {place}"][place % 3] for place in range(60)]
KNOWN = {"나는안간다": np.array([0, 3, 0, 0, 0, 1, 0])}


def expected_figures(arrays: dict, rows: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """The figures of these rows, from their definitions."""
    single = rows & (arrays["emotion"].sum(axis=1) == 1)
    true = arrays["emotion"].argmax(axis=1)[single]
    figures = {
        "weighted_f1": f1_score(true, answers[single], average="weighted", zero_division=0),
        "macro_f1": f1_score(true, answers[single], average="macro", zero_division=0),
        "accuracy": accuracy_score(true, answers[single]),
    }
    return figures | {
        f"ccc_{name}": ccc(arrays[f"{name}_pred"][rows], arrays[name][rows]) for name in ("arousal", "valence")
    }


def test_every_part_has_its_figures_counts_and_baselines():
    arrays, majority = make_arrays(IDS, 1, 1.0, 0), LABELS["neutral"]
    found = figures_by_part(IDS, arrays, majority, TEXTS, KNOWN)
    at = np.arange(60)
    rows = {"whole": at >= 0, "scripted": at < 30, "improvised": at >= 30}
    rows |= {"seen": at % 3 == 0, "short": at % 3 == 1, "unseen": at % 3 == 2}
    assert found.keys() == rows.keys()
    looked_up = np.where(at % 3 == 0, LABELS["angry"], majority)
    for name, inside in rows.items():
        part = found[name]
        single = inside & (arrays["emotion"].sum(axis=1) == 1)
        dialogues = {segment[:15] for segment, within in zip(IDS, inside, strict=True) if within}
        assert (part["n"], part["n_single_label"]) == (inside.sum(), single.sum())
        assert part["dialogues"] == len(dialogues)
        expected = expected_figures(arrays, inside, arrays["emotion_pred"].argmax(axis=1))
        assert {key: part[key] for key in expected} == pytest.approx(expected, abs=6e-5)
        for baseline, answers in (("lookup", looked_up), ("majority", np.full(60, majority))):
            expected = expected_figures(arrays, inside, answers)
            for key in ("weighted_f1", "macro_f1", "accuracy"):
                assert part[baseline][key] == pytest.approx(expected[key], abs=6e-5)


@pytest.mark.parametrize(("texts", "known"), [(None, KNOWN), (TEXTS, None), ([""] * 60, KNOWN)])
def test_without_transcripts_there_is_no_word_of_sentences(texts, known):
    found = figures_by_part(IDS, make_arrays(IDS, 1, 1.0, 0), 5, texts, known)
    assert found.keys() == {"whole", "scripted", "improvised"}
    assert "lookup" not in found["whole"]
    lines = describe_parts(found)
    assert [line.split()[0] for line in lines] == ["by", "scripted", "improvised"]
    assert "looked up" not in lines[0]


def test_a_part_without_windows_has_no_figures_and_free_talk_no_parts():
    found = figures_by_part(IDS[:30], make_arrays(IDS[:30], 1, 1.0, 0), 5, ["나는 안 간다"] * 30, KNOWN)
    assert found["unseen"] == found["improvised"] == {"n": 0, "n_single_label": 0, "dialogues": 0}
    assert len({len(line.rstrip()) for line in describe_parts(found)[:6]}) == 1  # columns stand below each other
    ids = [f"Sess01_script01_User001F_{place:03}" for place in range(30)]
    found = figures_by_part(ids, make_arrays(IDS[:30], 1, 1.0, 0), 5, None, None)
    assert found.keys() == {"whole"}
    assert describe_parts(found) == []


# Of a run


def test_an_earlier_run_is_told_by_a_test_which_sentences_training_had(finished, preprocessed, tmp_path, capsys):
    """From the transcripts in the corpus's table alone, some of which are made the same here."""
    corpus, exp = tmp_path / "corpus", tmp_path / "exp"
    corpus.mkdir()
    (corpus / "embedding_768.npy").write_bytes((preprocessed / "embedding_768.npy").read_bytes())
    table = pd.read_csv(preprocessed / "df_speaker.csv", dtype=str, keep_default_na=False)
    session = table["Segment ID"].str[4:6].astype(int)
    tested, trained = np.flatnonzero(session <= 2), np.flatnonzero(session > 2)
    texts = np.array([f"{number} 번째 말을 합니다" for number in range(len(table))], dtype=object)
    texts[tested[:7]] = "b/ 이 말은, 배웠다!"
    texts[tested[7:10]] = "그래."
    texts[trained[:2]] = "이 말은 배웠다"
    table.assign(text=texts).to_csv(corpus / "df_speaker.csv", index=False)
    folder = shutil.copytree(finished, exp / "run")
    earlier = json.loads((folder / "result.json").read_text("utf-8"))
    (folder / "result.json").write_text(json.dumps({name: earlier[name] for name in ("F1", "overall")}))
    capsys.readouterr()
    assert program.main([*options(corpus, exp), "--test_only", "run"]) == 0
    (again,) = folder.glob("test_*")
    result = json.loads((again / "result.json").read_text("utf-8"))
    n = len(tested)
    assert {name: part["n"] for name, part in result["parts"].items() if name in ("seen", "unseen", "short")} == {
        "seen": 7,
        "unseen": n - 10,
        "short": 3,
    }
    assert result["overall"] == earlier["overall"]
    assert result["parts"]["whole"]["weighted_f1"] == result["overall"]["weighted_f1"]
    assert result["chosen"] == "the last one"
    said = capsys.readouterr().out
    assert "weights of epoch 3 of 3, the last one" in said
    (line,) = [line for line in said.splitlines() if line.startswith("  sentences in training")]
    assert line.split()[3] == "7"


def test_a_corpus_without_transcripts_is_trained_on_and_tested(preprocessed, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for path in preprocessed.glob("*.npy"):
        (corpus / path.name).write_bytes(path.read_bytes())
    table = pd.read_csv(preprocessed / "df_speaker.csv", dtype=str, keep_default_na=False)
    table.drop(columns="text").to_csv(corpus / "df_speaker.csv", index=False)
    assert load_annotation(corpus, "speaker").text is None
    assert program.main([*options(corpus, tmp_path / "exp"), "--epochs", "1"]) == 0
    parts = json.loads((only_run(tmp_path / "exp") / "result.json").read_text("utf-8"))["parts"]
    assert parts.keys() == {"whole", "scripted", "improvised"}
    assert "sentences" not in capsys.readouterr().out
