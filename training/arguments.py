"""Arguments: the parser of all command lines, and the types of their options."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils import one_line


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, whose errors are one line: no page of usage, and the name that was meant."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        options = [part for part in unknown if part.startswith("-")]
        if options:
            name = options[0].partition("=")[0]
            shown = [n for n, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
            self.error(f"{name}: no such option{did_you_mean(name, shown) or '; --help lists all'}")
        if unknown:
            self.error(f"{unknown[0]}: not expected here; --help lists what is")
        return parsed


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean --epochs?` of a mistyped name, or '' if it resembles none of those known."""
    by_folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f", did you mean {by_folded[found[0]]}?" if found else ""


# Types of command-line options


def switch(value: str) -> bool:
    """`True` or `False` as a configuration or a command line writes it."""
    if value.lower() not in {"true", "1", "yes", "false", "0", "no"}:
        raise argparse.ArgumentTypeError(f"{value!r}: expected True or False")
    return value.lower() in {"true", "1", "yes"}


def number(kind: type, low: float, high: float = float("inf"), inclusive: bool = True) -> Any:
    """An argparse type: a finite `kind` from `low` to `high`; `inclusive` of `high` or not."""
    excluded = {float("inf")} if inclusive else {float("inf"), high}

    def parse(value: str) -> float:
        try:
            parsed = kind(value)
        except ValueError:
            parsed = None
        if parsed is None or not low <= parsed <= high or parsed in excluded:
            expected = (
                f"at least {low}" if high == float("inf") else f"from {low} to {'' if inclusive else 'below '}{high}"
            )
            raise argparse.ArgumentTypeError(f"{value!r}: expected {kind.__name__} {expected}")
        return parsed

    return parse


def gpu(value: str) -> str:
    """A GPU's number, `cpu` or `mps`."""
    if value not in ("cpu", "mps") and not (value.isdecimal() and len(value) < 5):
        raise argparse.ArgumentTypeError(f"{value!r}: expected a GPU's number, cpu or mps")
    return value


def file_path(value: str) -> Path:
    """A path that a file can have."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise argparse.ArgumentTypeError(f"{value!r}: expected a path in UTF-8 without NUL characters")
    return Path(value)
