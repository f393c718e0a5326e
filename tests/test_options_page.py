import pytest
from conftest import ROOT


@pytest.fixture
def make_options(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_options

    return make_options


@pytest.mark.parametrize("number", [0, 1])
def test_the_page_of_options_is_that_of_the_parsers(make_options, number):
    language = make_options.LANGUAGES[number]
    written = (ROOT / "docs" / language.file).read_text(encoding="utf-8")
    assert written == make_options.page(language), "call: python docs/make_options.py"


def test_the_page_has_every_command_and_option_of_main(make_options):
    from training.configuration import options

    content = make_options.page(make_options.LANGUAGES[0])
    for command in ("main", "preprocessing", "experiments", "predict", "export", "benchmark", "data/make_sample"):
        assert f"\n## {command}.py\n" in content
    own = content.partition("## main.py")[2].partition("## preprocessing.py")[0]
    assert sorted(line.split()[1].strip("`") for line in own.splitlines() if line.startswith("| `--")) == sorted(
        option.option_strings[-1] for option in options().values()
    )
