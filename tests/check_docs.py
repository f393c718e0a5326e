"""The commands of README, data/README and docs, in both languages, run from the files themselves in a fresh clone.

    make check                                   # all pages
    python tests/check_docs.py docs/training.md  # these pages

A fenced block marked `bash` is run line by line; other blocks are not. A comment before a block may mark it:
`<!-- check: error -->` where every command ends in its one-line error, since it needs KEMDy19, a hub or a cluster, and
`<!-- check: skip REASON -->`. `make train` comes first, and makes the sample corpus and a run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FIRST = "make train"  # makes the sample corpus and a run, which the others use
LONG = ("make test", "make experiments", "make faults", "make check", "make lowest")  # known to make, and not run here
BLOCK = re.compile(r"(?:<!-- check: (error|skip .+?) -->\n)?\n*```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NO_CORPUS = re.compile(r"error: .*data/KEMDy\w*\b.*: no such folder")  # of a command for a corpus that few have
TIME_LIMIT = 900  # seconds of a command


class Command(NamedTuple):
    """A command of a page; `mark` is `error`, `skip ...` or ''."""

    page: str
    line: int
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def read_commands(page: str, markdown: str) -> Iterator[Command]:
    """The commands in the `bash` blocks of a page; a line that ends in a backslash continues in the next."""
    for block in BLOCK.finditer(markdown):
        if block[2] != "bash":
            continue
        number, parts = markdown[: block.start(3)].count("\n"), []
        for line in block[3].splitlines():
            number += 1
            text = re.sub(r"(^|\s)#.*$", "", line).strip()
            parts.append(text.removesuffix("\\").strip())
            if not text.endswith("\\"):
                if whole := " ".join(parts).strip():
                    yield Command(page, number - len(parts) + 1, whole, block[1] or "")
                parts = []


def is_fault(command: Command, status: int, output: str) -> bool:
    """Whether a command ended otherwise than marked; one for a corpus that is not there may say so."""
    errors = [line for line in output.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    is_error = status == 2 and len(errors) == 1
    if "Traceback (most recent call last)" in output:
        return True
    if command.mark == "error":
        return not is_error
    return status != 0 and not (is_error and NO_CORPUS.match(errors[0]))


def clone(folder: Path) -> dict[str, str]:
    """Clone the repository, with this one's .venv if it has one; returns the environment of commands."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    if (ROOT / ".venv" / "run").exists():
        (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
        for path in folder.glob("requirements*.txt"):  # what is installed is not older than they are
            os.utime(path, (0, 0))
    path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}


def run(text: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command in a folder; its status, 124 if it took too long, and what it printed."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    command = ["timeout", str(TIME_LIMIT), "bash", "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, **options)
    return done.returncode, done.stdout.decode(errors="replace")


def check(commands: Sequence[Command], folder: Path, environment: dict[str, str]) -> int:
    """Run the commands in order, equal ones once, and print how each ended; the number of those at fault."""
    status, output = run(FIRST, folder, environment)
    print(f"{FIRST}: status {status}", output if status else "", flush=True)
    if status:
        return 1
    faults, done = 0, {FIRST}
    for command in commands:
        if command.text in done or command.mark.startswith("skip"):
            continue
        done.add(command.text)
        text = f"make --dry-run {command.text[5:]}" if command.text in LONG else command.text
        status, output = run(text, folder, environment)
        wrong = is_fault(command, status, output)
        faults += wrong
        print(f"FAULT {command}: status {status}\n{output[-2000:]}" if wrong else f"ok {command}", flush=True)
    return faults


def main(names: Sequence[str]) -> int:
    pages = [*sorted(ROOT.glob("README*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("data/README*.md"))]
    names = list(names) or [str(path.relative_to(ROOT)) for path in pages]
    commands = [command for name in names for command in read_commands(name, (ROOT / name).read_text("utf-8"))]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "clone"
        faults = check(commands, folder, clone(folder))
    print(f"{len(commands)} commands of {len(names)} pages, {faults} at fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
