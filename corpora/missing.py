"""Missing: the utterances without wav or text, and when they are too many to go on."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

from corpora.problems import MISSING_LIMIT
from corpora.registry import parse_id
from utils import InputError


def report_missing(
    ids: Sequence[str], missing: Sequence[bool], what: str, where: str, reason: str = "", warn: bool = True
) -> list[str]:
    """The utterances that have no wav or no text; one warning names them all.

    Parameters
    ----------
    ids : segment ids
    missing : for each id, whether its wav or text is missing
    what : "wav" or "text"
    where : the file or folder that was searched
    reason : why the first one cannot be used that is there and cannot be used; "" if there is none
    warn : whether to warn

    Raises
    ------
    InputError : more than 5% are missing, or all of a session
    """
    absent = [segment for segment, is_missing in zip(ids, missing, strict=True) if is_missing]
    usable, first = (f"usable {what}", f"; first {reason}") if reason else (what, "")
    if len(absent) > MISSING_LIMIT * len(ids):
        raise InputError(
            f"{where}: {len(absent)} of {len(ids)} utterances have no {usable} there (such as {absent[0]}); "
            f"at most {MISSING_LIMIT:.0%} may be missing, so this is probably the wrong path{first}"
        )
    if not absent:
        return []
    in_session, absent_in = count_by_session(ids), count_by_session(absent)
    for session, n_absent in sorted(absent_in.items()):
        if n_absent == in_session[session]:
            raise InputError(
                f"{where}: none of the {n_absent} utterances of Sess{session:02d} has a {usable} there (such as "
                f"{absent[0]}); a session without any cannot be tested or trained on, so copy it there{first}"
            )
    if warn:
        warnings.warn(
            f"{len(absent)} of {len(ids)} utterances have no {usable} in {where} and count as zeros: "
            f"{', '.join(absent)}{first}",
            stacklevel=2,
        )
    return absent


def count_by_session(ids: Sequence[str]) -> Counter[int]:
    """How many of these utterances each session has."""
    return Counter(parse_id(segment).session for segment in ids)
