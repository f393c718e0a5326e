import os

import pytest
from check_docs import ROOT, Command, check, fault, read_commands

PAGE = """Text with `code`.

```bash
python main.py  # a comment
python main.py \\
  --epochs 3
# alone
```

<!-- check: error -->
```bash
python main.py --data_path data/KEMDy19
```

<!-- check: error -->
Text between: the mark is of no block.

```text
not run
```
```bash
make test
```
<!-- check: skip it downloads -->

```bash
hf download
```
"""


def test_the_commands_of_bash_blocks_are_read_with_their_marks():
    found = [command[1:] for command in read_commands("a.md", PAGE)]
    assert found == [
        (4, "python main.py", ""),
        (5, "python main.py --epochs 3", ""),
        (12, "python main.py --data_path data/KEMDy19", "error"),
        (22, "make test", ""),
        (27, "hf download", "skip it downloads"),
    ]


NO_CORPUS = "error: data/KEMDy19: no such folder; put it there\n"


@pytest.mark.parametrize(
    ("mark", "status", "output", "is_fault"),
    [
        ("", 0, "done\n", False),
        ("", 1, "", True),
        ("", 2, "error: --epochs: no such option\n", True),
        ("", 2, NO_CORPUS, False),
        ("", 2, "Traceback (most recent call last):\n" + NO_CORPUS, True),
        ("error", 2, "bar 10%\r" + NO_CORPUS, False),
        ("error", 2, NO_CORPUS + NO_CORPUS, True),
        ("error", 0, "done\n", True),
        ("error", 1, NO_CORPUS, True),
    ],
)
def test_a_command_is_at_fault_unless_it_ends_as_its_page_says(mark, status, output, is_fault):
    assert (fault(Command("a.md", 1, "python main.py", mark), status, output) is not None) is is_fault


def test_commands_are_run_once_with_the_first_run_in_place_of_its_placeholder(tmp_path, capsys):
    (tmp_path / "Makefile").write_text("train:\n\tmkdir -p exp/one && touch exp/one/result.json\ntest:\n\tfalse\n")
    texts = [
        "make train",
        "echo x >> log",
        "echo x >> log",
        "echo exp/<run> >> log",
        "make test",
        "exit 3",
        "hf download",
    ]
    commands = [Command("a.md", line, text, "skip" if "hf" in text else "") for line, text in enumerate(texts)]
    assert check(commands, tmp_path, dict(os.environ)) == 1
    assert (tmp_path / "log").read_text() == "x\nexp/one\n"
    assert "FAULT    0 s a.md:5: exit 3\nstatus 3, expected 0" in capsys.readouterr().out


def test_every_page_of_the_repository_is_readable():
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/README*.md")]
    commands = [command for page in pages for command in read_commands(page.name, page.read_text("utf-8"))]
    assert not [c for c in commands if "<" in c.text.replace("exp/<run>", "") and not c.mark.startswith("skip")]
