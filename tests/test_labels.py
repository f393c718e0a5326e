import pytest

from corpora.labels import emotion_index, parse_emotions


def test_emotions_are_parsed_with_ties_misspellings_capitals_and_spaces():
    assert parse_emotions("happy;surprise") == [6, 4]
    assert parse_emotions(" Disqust ") == [0]
    with pytest.raises(ValueError, match="bored"):
        parse_emotions("bored")
    with pytest.raises(ValueError, match="happy;sad"):
        emotion_index("happy;sad")
