"""The documentation: its length, links, twins, options, pictures and figures agree with the repository."""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "data"))
sys.path.insert(0, str(ROOT / "docs"))

import draw_model
import make_sample

import benchmark
import export
import predict
import preprocessing
from sweeps.command_line import get_args_parsers
from training.options import get_args_parser

ENGLISH = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENGLISH = [page for page in ENGLISH if not page.name.endswith(".ko.md")]
KOREAN = [page.with_suffix(".ko.md") for page in ENGLISH]
PAGES = [*ENGLISH, *KOREAN]
README_LINES = 150

# Of torchrun, accelerate, pip, hf and the like
FOREIGN = {
    "--nproc_per_node",
    "--nnodes",
    "--rdzv_backend",
    "--rdzv_endpoint",
    "--multi_gpu",
    "--num_processes",
    "--cpu",
    "--index-url",
    "--force-reinstall",
    "--local-dir",
    "--logdir",
    "--output_format",
    "--output_dir",
    "--language",
    "--diarize",
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(page: Path) -> Iterator[str]:
    text = without_code(page.read_text("utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_readme_is_short(name):
    assert len((ROOT / name).read_text("utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_page_has_its_twin(page):
    assert page.is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page):
    broken = []
    for link in links(page):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            broken.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", without_code(path.read_text("utf-8")), flags=re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", KOREAN, ids=name_of)
def test_korean_pages_link_to_korean_pages(page):
    pages = [link.partition("#")[0] for link in links(page) if not link.startswith("http")]
    twins = [page for page in pages if page.endswith(".md") and not page.endswith((".ko.md", "ARCHITECTURE.md"))]
    own = page.name.replace(".ko.md", ".md")  # the way to the English page
    assert [twin for twin in twins if twin not in (own, "CHANGELOG.md", "../CHANGELOG.md")] == []


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options of all commands."""
    _, commands = get_args_parsers()
    modules = (preprocessing, predict, export, benchmark, make_sample)
    parsers = [get_args_parser(), *commands.values(), *(module.get_args_parser() for module in modules)]
    return {name for parser in parsers for name in parser._option_string_actions}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_option_that_is_named_exists(page, options):
    named = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", page.read_text("utf-8")))
    assert named - options - FOREIGN == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_no_other_placeholder_than_a_run(page):
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert {name for block in blocks for name in re.findall(r"<[^<>\n]+>", block)} <= {"<run>"}


@pytest.mark.parametrize("page", KOREAN, ids=name_of)
def test_korean_words_are_spelt_alike(page):
    text = page.read_text("utf-8")
    assert re.findall(r"윈도(?!우)|에폭|격자|표본 말뭉치|공개된 프로그램", text) == []


@pytest.mark.parametrize("name", draw_model.THEMES)
def test_the_pictures_are_what_the_script_draws(name):
    assert (ROOT / "docs" / name).read_text("utf-8") == draw_model.draw(draw_model.THEMES[name])


# Figures


def published() -> list[dict[str, str]]:
    with (ROOT / "data" / "published.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cells(page: Path) -> Iterator[list[str]]:
    """The rows of a page's tables."""
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("name", ["reproducing.md", "reproducing.ko.md"])
def test_reproducing_has_the_published_figures(name):
    rows = [*cells(ROOT / "docs" / name)]
    names = ("precision", "recall", "f1", "ccc_arousal", "ccc_valence")
    for row in published():
        if row["table"] not in {"3.1", "KEMDy20"} and row["ccc_arousal"]:
            assert [row["table"], row["row"], row["role"], row["test_split"], *(row[key] for key in names)] in rows


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_readme_quotes_the_paper_rightly(name):
    """F1, CCC of arousal and of valence of both roles with sessions 13-16 held out, in the order of the sentence."""
    by_role = {row["role"]: row for row in published() if row["table"] == "3.2" and row["test_split"] == "13-16"}
    expected = [by_role[role][key] for key in ("f1", "ccc_arousal", "ccc_valence") for role in ("speaker", "listener")]
    text = (ROOT / name).read_text("utf-8")
    (sentence,) = [part for part in text.split("\n\n") if f"{expected[0]} " in part or f"{expected[0]}," in part]
    assert re.findall(r"(?<![\d-])\.\d{3}", sentence) == expected
