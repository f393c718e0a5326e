import csv

import pytest

from corpora.problems import Problem, report_missing, warn_of_problems, write_problems
from utils import InputError


def problem(what: str, segment: str, done: str = "left out") -> Problem:
    return Problem("annotation/t.csv", 3, segment, what, "'x'", done)


def test_each_kind_of_problem_is_warned_of_once():
    problems = [problem("bad label", "u1"), problem("no wav", "u2"), problem("bad label", "u3")]
    with pytest.warns(UserWarning) as warned:  # noqa: PT030
        warn_of_problems(problems)
    assert [str(warning.message) for warning in warned] == [
        "bad label: annotation/t.csv, row 3 (u1): 'x' and 1 more; left out",
        "no wav: annotation/t.csv, row 3 (u2): 'x'; left out",
    ]


def test_problems_csv_holds_any_text(tmp_path):
    problems = [problem('a "quoted", label', "가"), problem("two\nlines", "")]
    path = tmp_path / "problems.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        write_problems(file, problems)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == Problem._fields
    assert rows == [[str(cell) for cell in row] for row in problems]


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
