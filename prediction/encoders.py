"""Encoders: the text model and the speech encoder of trained runs, found by what the runs record of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils import InputError


class Wanted(NamedTuple):
    """An encoder that some runs need.

    what : "text model" or "speech encoder"
    option : of the command line that says where it is
    example : of its value
    input : what of the predictions depends on it, "text" or "sound"
    records : by a run's name what it says of the encoder: name and fingerprint at least, or None
    """

    what: str
    option: str
    example: str
    input: str
    records: Mapping[str, Mapping[str, Any] | None]

    def find(self, given: str | None) -> tuple[str, str | None]:
        """Name or folder of the encoder, and the revision that was recorded, if its name is the recorded one.

        Raises
        ------
        InputError : none is given, and the runs do not say which it is or had different ones
        """
        if given is not None:
            return given, None
        if lacking := [run for run, record in self.records.items() if record is None]:
            raise InputError(
                f"{lacking[0]}: does not say which {self.what} it was trained with; give it as {self.option}, such as "
                f"{self.example} or its folder"
            )
        if len({record["fingerprint"] for record in self.records.values()}) > 1:
            found = ", ".join(f"{run} {record['name']}" for run, record in self.records.items())
            raise InputError(
                f"the {self.what} differs between the runs ({found}), so that they have no mean; give them separately"
            )
        run, record = next(iter(self.records.items()))
        name, revision = record["name"], record.get("revision")
        if not (Path(name).is_dir() or "/" in name or revision):
            raise InputError(
                f"{run}: was trained with the {self.what} of a folder called {name}; give the place where it is now as "
                f"{self.option}"
            )
        return name, None if Path(name).is_dir() else revision

    def not_found(self, error: InputError, given: str | None) -> InputError:
        """The error of an encoder that cannot be had; where it was not given, it asks for the place."""
        where = f"; the runs were trained with it: give the place where it is now as {self.option}"
        return InputError(f"{error}{where if given is None else ''}")

    def warn_of_another(self, name: str, fingerprint: str) -> None:
        """Warn where an encoder is another than a run was trained with."""
        for run, record in self.records.items():
            if record is not None and record["fingerprint"] != fingerprint:
                warnings.warn(
                    f"{self.what} {name} is not the one that {run} was trained with ({record['name']}): its vectors "
                    f"mean something else to the model, whose predictions from {self.input} are then worth little",
                    stacklevel=3,
                )
                return
