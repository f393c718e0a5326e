import pytest

from corpora.missing import report_missing
from utils import InputError


def test_few_missing_are_listed_once_and_many_stop_the_run():
    ids = [f"Sess0{1 + i % 2}_script01_F{i:03d}" for i in range(100)]
    with pytest.warns(
        UserWarning, match=rf"2 of 100 utterances have no wav in there .*: {ids[0]}, {ids[1]}$"
    ) as warned:
        assert report_missing(ids, [i < 2 for i in range(100)], "wav", "there") == ids[:2]
    assert len(warned) == 1
    assert report_missing(ids, [False] * 100, "wav", "there") == []
    with pytest.raises(InputError, match=r"^there: 6 of 100 utterances have no wav"):
        report_missing(ids, [i < 6 for i in range(100)], "wav", "there")


def test_a_session_without_any_stops_the_run():
    ids = [f"Sess01_script01_F{i:03d}" for i in range(98)] + [f"Sess02_script01_F00{i}" for i in range(2)]
    with pytest.raises(InputError, match=r"^there: none of the 2 utterances of Sess02 has a text there"):
        report_missing(ids, [segment.startswith("Sess02") for segment in ids], "text", "there")
