import pytest

from training.configuration import as_json, identity, names_of, options
from training.options import CALL, CORPUS, MODEL, TEST, TRAINING, parse_args

SCOPES = (CALL, CORPUS, MODEL, TRAINING, TEST)
DEFAULTS = as_json(parse_args([])[0])


def test_every_option_has_one_scope():
    assert options().keys() == DEFAULTS.keys()
    assert {option.scope for option in options().values()} == {*SCOPES}
    assert sorted(name for scope in SCOPES for name in names_of(scope)) == sorted(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_run_is_another_if_any_option_but_one_of_the_call_differs(name):
    whole = DEFAULTS | {"audio": "encoder"}  # a speech encoder has no meaning to another
    assert (identity(whole | {name: "another value"}) == identity(whole)) is (name in names_of(CALL))


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_option_that_a_configuration_lacks_has_its_default(name):
    lacking = {option: value for option, value in DEFAULTS.items() if option != name}
    assert identity(lacking) == identity(DEFAULTS)


def test_sgd_without_a_momentum_had_that_of_its_time():
    before = {name: value for name, value in DEFAULTS.items() if name != "momentum"} | {"optim": "sgd"}
    assert identity(before) == identity(before | {"momentum": 0.9}) != identity(before | {"momentum": 0.0})
    published = {name: before[name] for name in ("optim", "lr", "epochs")}
    assert identity(published) == identity(published | {"momentum": 0.0})


def test_a_run_is_the_same_however_the_path_of_its_corpus_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    written = ("corpus", str(tmp_path / "corpus"), "link", "other/../corpus")
    assert len({identity(DEFAULTS | {"data_path": path}) for path in written}) == 1
    assert identity(DEFAULTS | {"data_path": "other"}) != identity(DEFAULTS | {"data_path": "corpus"})
    both = [["second", path] for path in written]
    assert len({identity(DEFAULTS | {"data_path": paths}) for paths in both}) == 1


def test_an_encoder_that_a_run_does_not_hear_through_is_no_part_of_it():
    for others in ({}, {"modality": "text", "audio": "encoder"}):
        run = DEFAULTS | others
        assert identity(run | {"audio_model": "hubert"}) == identity(run)
    heard = DEFAULTS | {"audio": "encoder"}
    assert identity(heard | {"audio_model": "hubert"}) != identity(heard)


def test_an_encoder_is_known_by_the_name_of_its_folder_wherever_that_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoders" / "hubert").mkdir(parents=True)
    parsed = [
        parse_args(["--audio", "encoder", "--audio_model", name])[0]
        for name in ("hubert", "encoders/hubert", str(tmp_path / "encoders" / "hubert"))
    ]
    assert {options.audio_model for options in parsed} == {"hubert"}
    earlier = as_json(parsed[0]) | {"audio_model": "/gone/hubert", "speech_encoder": {"name": "hubert"}}
    assert identity(earlier) == identity(as_json(parsed[1]))
    assert parse_args(["--audio_model", "team-lucid/hubert-base-korean"])[0].audio_model.startswith("team-lucid/")


def test_facts_in_a_configuration_are_no_part_of_the_run():
    assert identity(DEFAULTS | {"versions": {"torch": "2.0"}, "train_split": [1]}) == identity(DEFAULTS)
