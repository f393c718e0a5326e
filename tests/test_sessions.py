"""How sessions are written, read and split, of one corpus and of several."""

import argparse

import pytest

from corpora.registry import named
from corpora.sessions import (
    default_fold,
    describe_sessions,
    format_sessions,
    is_session,
    parse_sessions,
    plain,
    settle,
    training_sessions,
)
from utils import InputError

ONE, BOTH = [named("KEMDy19")], [named("KEMDy19"), named("KEMDy20")]


@pytest.mark.parametrize(
    ("written", "sessions", "again"),
    [
        ("[13,14,15,16]", [13, 14, 15, 16], "13-16"),
        ("9, 1,8", [1, 8, 9], "1,8,9"),
        ("40", [40], "40"),
        ("KEMDy20:1-2,KEMDy19:13", ["KEMDy19:13", "KEMDy20:1", "KEMDy20:2"], "KEMDy19:13,KEMDy20:1-2"),
        ("KEMDy19:9,10,2", ["KEMDy19:2", "KEMDy19:9", "KEMDy19:10"], "KEMDy19:2,9,10"),  # the name holds on
        ("['KEMDy20:9', 'KEMDy20:10']", ["KEMDy20:9", "KEMDy20:10"], "KEMDy20:9-10"),  # as a configuration has them
    ],
)
def test_what_is_written_is_read_and_written_again(written, sessions, again):
    assert parse_sessions(written) == sessions
    assert format_sessions(sessions) == again
    assert parse_sessions(again) == sessions
    assert all(map(is_session, sessions))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("41", "KEMDy19 has 1-20, KEMDy20 has 1-40"),
        ("KEMDy19:21", "KEMDy19 has 1-20"),
        ("KEMDy20:4-2", "such as KEMDy19:13-16,KEMDy20:1-8"),
        ("KEMDy20:", "expected sessions"),
        ("KEMDy21:1", "no corpus 'KEMDy21'; there are KEMDy19 and KEMDy20"),
    ],
)
def test_what_is_no_session_is_told(written, message):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse_sessions(written)
    assert message in str(error.value)


@pytest.mark.parametrize("value", ["13", "KEMDy21:1", "KEMDy19:x", 1.5, None, ["KEMDy19:1"]])
def test_other_values_of_a_configuration_are_no_sessions(value):
    assert not is_session(value)


def test_a_run_of_one_corpus_has_plain_numbers_however_they_are_written():
    for written in ("13-14", "KEMDy19:13-14", "13,KEMDy19:13-14"):
        assert settle(parse_sessions(written), ONE, "--test_split") == [13, 14]
    assert settle(parse_sessions("KEMDy20:2,KEMDy19:1"), BOTH, "--test_split") == ["KEMDy19:1", "KEMDy20:2"]
    assert default_fold(BOTH) == [f"KEMDy19:{number}" for number in default_fold(ONE)]


@pytest.mark.parametrize(
    ("written", "corpora", "message"),
    [
        (
            "13-16",
            BOTH,
            "--valid_split 13-16: of which corpus? --data_path holds KEMDy19 and KEMDy20: write KEMDy19:13-16 or "
            "KEMDy20:13-16, or KEMDy19:13-16,KEMDy20:13-16 for both",
        ),
        ("KEMDy20:1-8", ONE, "--valid_split KEMDy20:1-8: --data_path holds KEMDy19, no KEMDy20"),
    ],
)
def test_sessions_of_no_corpus_or_of_another_are_told(written, corpora, message):
    with pytest.raises(InputError) as error:
        settle(parse_sessions(written), corpora, "--valid_split")
    assert str(error.value) == message


def test_sessions_of_equal_number_are_two_in_two_corpora():
    present = {"KEMDy19:1", "KEMDy19:2", "KEMDy20:1", "KEMDy20:10", "KEMDy20:9"}
    assert training_sessions(present, ["KEMDy19:1"], ["KEMDy20:10"]) == ["KEMDy19:2", "KEMDy20:1", "KEMDy20:9"]
    with pytest.raises(InputError, match=r"no utterance of sessions \[KEMDy19:3\]; it has \[KEMDy19:1, KEMDy19:2, KE"):
        training_sessions(present, ["KEMDy19:3"], None)
    with pytest.raises(InputError, match=r"share sessions \[KEMDy20:9\]"):
        training_sessions(present, ["KEMDy20:9"], ["KEMDy20:9"])


def test_sessions_in_words_name_their_corpus():
    assert describe_sessions([1, 2, 3, 7], ONE) == "KEMDy19, sessions 1,2,3,7"
    both = ["KEMDy20:9", "KEMDy19:5", "KEMDy20:10"]
    assert describe_sessions(both, BOTH) == "KEMDy19, sessions 5 and KEMDy20, sessions 9-10"


def test_sessions_of_one_corpus_are_compared_by_their_numbers():
    assert plain(["KEMDy20:3", "KEMDy20:4"]) == plain([3, 4]) == [3, 4]
    assert plain(["KEMDy19:3", "KEMDy20:4"]) == ["KEMDy19:3", "KEMDy20:4"]
