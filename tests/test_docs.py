"""The documentation: links, options, commands and published figures agree with the repository."""

import csv
import re
import subprocess
from pathlib import Path

import check_docs
import make_sample
import pytest
from conftest import ROOT

import experiments
import export
import finetune
import predict
import preprocessing
from tools import benchmark
from training.options import get_args_parser

ENGLISH = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENGLISH = [page for page in ENGLISH if not page.name.endswith(".ko.md")]
KOREAN = [page.with_suffix(".ko.md") for page in ENGLISH]
PAGES = [*ENGLISH, *KOREAN, ROOT / "ARCHITECTURE.md"]

# Of torchrun, accelerate, pip, hf, Whisper and the like
FOREIGN = """nproc_per_node index-url force-reinstall array gpus cpus-per-task time wrap local-dir output_format
    language diarize"""


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", without_code(page), flags=re.MULTILINE)}


def test_links_within_the_repository_lead_somewhere_and_from_korean_to_korean_pages():
    wrong = []
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        links = re.findall(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"', without_code(page))
        for link in map("".join, links):
            target, _, anchor = link.partition("#")
            path = (page.parent / target).resolve() if target else page
            if target.startswith(("https:", "http:", "mailto:")):
                continue
            if not path.exists() or (anchor and anchor not in anchors(path)):
                wrong.append(f"{page.name}: {link}")
            elif page in KOREAN and path in ENGLISH and path.with_suffix(".ko.md") != page:
                wrong.append(f"{page.name}: {link} is not the Korean page")
    assert wrong == []


def test_options_and_files_that_are_named_exist():
    parsers = [
        module.get_args_parser() for module in (export, finetune, make_sample, predict, preprocessing, benchmark)
    ]
    parsers += [get_args_parser(), *experiments.get_parser()._subparsers._group_actions[0].choices.values()]
    options = {f"--{name}" for name in FOREIGN.split()}.union(*(parser._option_string_actions for parser in parsers))
    wrong = []
    for page in PAGES:
        text = page.read_text("utf-8")
        named = re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text)
        wrong += [f"{page.name}: {name}" for name in named if name not in options]
        files = re.findall(r"`((?:[a-z]+/)*[a-z_0-9]+\.(?:py|js|ipynb))`", text)
        places = [ROOT, ROOT / "reports"]
        wrong += [f"{page.name}: {name}" for name in files if not any((place / name).exists() for place in places)]
    assert wrong == []


def test_commands_are_equal_in_both_languages_and_have_no_placeholder():
    english, korean = (
        [(c.text, c.mark) for page in pages for c in check_docs.read_commands(page.name, page.read_text("utf-8"))]
        for pages in (ENGLISH, KOREAN)
    )
    assert english == korean
    assert len(english) > 40
    assert [text for text, _ in english if "<" in text] == []
    for target in {text for text, _ in english if text.startswith("make ")}:
        dry_run = subprocess.run([*target.split(), "--dry-run"], cwd=ROOT, capture_output=True, check=False)
        assert dry_run.returncode == 0, target


def test_pages_are_short_and_few():
    assert len([*(ROOT / "docs").glob("*.md")]) == 12
    for page in (*ENGLISH, *KOREAN):
        limit = 120 if page.parent == ROOT else 130
        assert page.read_text("utf-8").count("\n") <= limit, page
    for pages in ((*ENGLISH, ROOT / "ARCHITECTURE.md"), KOREAN):
        assert sum(len(page.read_text("utf-8").split()) for page in pages) <= 7_000


def test_no_korean_paragraph_begins_with_a_particle():
    for page in KOREAN:
        paragraphs = re.split(r"\n\n|```\n", page.read_text("utf-8"))
        assert [text for text in paragraphs if re.match(r"(은|는|을|를|가|의|에|에서|로|으로|와|과|도) ", text)] == []


@pytest.mark.parametrize("suffix", [".md", ".ko.md"])
def test_published_figures_are_quoted_rightly(suffix):
    with (ROOT / "data" / "published.csv").open(encoding="utf-8", newline="") as file:
        published = [row for row in csv.DictReader(file) if row["ccc_arousal"]]
    results, readme = ((ROOT / name).read_text("utf-8") for name in (f"docs/results{suffix}", f"README{suffix}"))
    found = {}
    for row in published:
        key = tuple(row[name] for name in ("table", "row", "test_split"))
        found.setdefault(key, []).append([row[name] for name in ("f1", "ccc_arousal", "ccc_valence")])
    assert len(found) == 18
    for key, (speaker, listener) in found.items():
        line = f"| {' | '.join(key)} | {'/'.join(speaker)} | {'/'.join(listener)} |"
        assert line in results or key == ("3.6", "lam .66", "13-16")  # the default
    for pair in zip(*found["3.2", "default", "13-16"], strict=True):
        assert f"| {' | '.join(pair)} |" in readme
