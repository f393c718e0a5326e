import csv

import pytest

from corpora.problems import Problem, warn_of_problems, write_problems


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
