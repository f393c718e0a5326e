"""The sample in KEMDy20's layout: what its plan and its files hold."""

import csv
import sys
from collections import Counter

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "data"))

import make_sample
import sample_kemdy20

from corpora.kemdy20 import SEGMENT_ID
from utils import InputError, decode


def test_the_whole_sample_has_forty_sessions_and_is_mostly_neutral():
    talks = sample_kemdy20.plan_talk(0, 40, None)
    assert {talk.session for talk in talks} == set(range(1, 41))
    assert len({talk.segment_id for talk in talks}) == len(talks)
    assert all(SEGMENT_ID.fullmatch(talk.segment_id) for talk in talks)
    totals = Counter(talk.rating.total_emotion for talk in talks)
    assert 0.7 < totals["neutral"] / len(talks) < 0.9
    assert max(total.count(";") for total in totals) == 4
    assert {talk.sex for talk in talks if talk.session == 40} == {"F"}
    assert sum(sample_kemdy20.prefix_of_table(session, 40) != session for session in range(1, 41)) == 1
    assert sample_kemdy20.prefix_of_table(17, 40) == 16
    assert talks == sample_kemdy20.plan_talk(0, 40, None) != sample_kemdy20.plan_talk(1, 40, None)


def test_layout(sample20):
    assert {path.name for path in sample20.iterdir()} == {"annotation", "wav", "kobert", "synthetic.json"}
    assert {path.name for path in (sample20 / "annotation").iterdir()} == {
        f"Sess{n:02d}_eval.csv" for n in range(1, 11)
    }
    raters = set()
    for path in (sample20 / "annotation").iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\xef\xbb\xbf") == (path.name == "Sess03_eval.csv")
        rows = list(csv.reader(decode(content, path).splitlines()))
        assert {len(row) for row in rows} == {37}
        assert [row[0] for row in rows[2:]] == [str(n) for n in range(1, 7)]
        raters.add(tuple(rows[0][7::3]))
    assert len(raters) > 1
    for session in range(1, 11):
        names = {path.name for path in (sample20 / "wav" / f"Session{session:02d}").iterdir()}
        assert len(names) == 12  # flat, a wav and a txt each
        assert {name[:6] for name in names} == {f"Sess{session:02d}"}


@pytest.mark.parametrize("given", [{"sessions": 0}, {"sessions": 41}, {"seed": -1}, {"utterances": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, given):
    with pytest.raises(InputError, match="expected 1 to 40 sessions"):
        sample_kemdy20.make_sample_kemdy20(tmp_path / "out", **given)
    assert not any(tmp_path.iterdir())


def test_the_command_leaves_what_is_there(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert make_sample.main(["--layout", "kemdy20", "--out", str(tmp_path / "out"), "--sessions", "2"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert make_sample.main(["--layout", "kemdy20", "--out", str(tmp_path / "new"), "--sessions", "41"]) == 2
    assert "expected 1 to 40 sessions" in capsys.readouterr().err
