"""The pages of all options, docs/options.md and docs/options.ko.md, written from the parsers of the commands.

python docs/make_options.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]

import make_sample  # noqa: E402

import benchmark  # noqa: E402
import export  # noqa: E402
import predict  # noqa: E402
import preprocessing  # noqa: E402
from sweeps.command_line import get_args_parsers  # noqa: E402
from sweeps.plan import EPOCHS  # noqa: E402
from training import options  # noqa: E402

OWN_GROUPS = ("experiments", "machines")  # of the commands of experiments.py, beside main.py's


class Language(NamedTuple):
    """The words of a page that are not in the parsers."""

    file: str
    title: str
    introduction: str
    experiments: str
    columns: tuple[str, str, str]
    required: str


LANGUAGES = (
    Language(
        "options.md",
        "Options",
        "All options of all commands, as `--help` prints them. `python docs/make_options.py` writes this page from the "
        "parsers.\n\n[한국어](options.ko.md)",
        f"Its commands but `runs` take main.py's options as well, with `--epochs {EPOCHS}` by default.",
        ("option", "default", "what it says"),
        "required",
    ),
    Language(
        "options.ko.md",
        "옵션",
        "모든 명령의 모든 옵션입니다. `python docs/make_options.py`가 명령줄 파서에서 이 문서를 만들므로 "
        "설명은 `--help`와 같은 영어입니다.\n\n[English](options.md)",
        f"`runs`를 뺀 명령은 main.py의 옵션도 받으며, `--epochs`의 기본값은 {EPOCHS}입니다.",
        ("옵션", "기본값", "뜻"),
        "필수",
    ),
)


def page(language: Language) -> str:
    """The whole page as Markdown."""
    parts = [f"# {language.title}", language.introduction]
    for name, parser in (("main.py", options.get_args_parser()), ("preprocessing.py", preprocessing.get_args_parser())):
        parts += section(name, parser, language)
    parser, commands = get_args_parsers()
    parts += ["## experiments.py", parser.description, language.experiments]
    for name, command in commands.items():
        groups = OWN_GROUPS if name != "runs" else None
        parts += [f"### experiments.py {name}", command.description, *tables(command, language, groups)]
    for module in (predict, export, benchmark):
        parts += section(f"{module.__name__}.py", module.get_args_parser(), language)
    parts += section("data/make_sample.py", make_sample.get_args_parser(), language)
    return "\n\n".join(parts) + "\n"


def section(name: str, parser: argparse.ArgumentParser, language: Language) -> list[str]:
    """A command: its heading, its description and its options, in a table for each group."""
    return [f"## {name}", parser.description, *tables(parser, language)]


def tables(parser: argparse.ArgumentParser, language: Language, groups: tuple[str, ...] | None = None) -> Iterator[str]:
    """The tables of a parser's groups, or of those named; groups of no option and argparse's own have no title."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help not in (argparse.SUPPRESS, None)]
        actions = [action for action in actions if action.dest != "help"]
        if not actions or (groups is not None and group.title not in groups):
            continue
        if group.title not in ("options", "positional arguments") and groups is None:
            yield f"### {group.title[0].upper()}{group.title[1:]}"
        heading = f"| {' | '.join(language.columns)} |\n|---|---|---|"
        yield "\n".join([heading, *(row(action, language.required) for action in actions)])


def row(action: argparse.Action, required: str) -> str:
    """An option's line of the table."""
    name = action.option_strings[-1] if action.option_strings else ""
    if action.nargs != 0:
        values = "|".join(map(str, action.choices)) if action.choices else action.metavar
        values = values or action.dest.upper()
        name = f"{name} {values if isinstance(values, str) else ' '.join(values)}".strip()
    default = action.default
    if isinstance(default, list | tuple):
        default = " ".join(map(str, default))
    unset = default is None or default is False or default == argparse.SUPPRESS
    shown = required if action.required and action.option_strings else "" if unset else f"`{default}`"
    text = action.help.replace(" (%(default)s)", "").replace(" (default: %(default)s)", "")  # it has its own column
    text %= {**vars(action), "prog": ""}
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in (f'`{name}`', shown, text))} |"


if __name__ == "__main__":
    for language in LANGUAGES:
        (ROOT / "docs" / language.file).write_text(page(language), encoding="utf-8")
