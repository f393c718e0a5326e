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
FOREIGN = """nproc_per_node nnodes rdzv_backend rdzv_endpoint multi_gpu num_processes cpu index-url force-reinstall
    array gpus cpus-per-task time wrap local-dir logdir output_format output_dir language diarize"""


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
    parsers += [get_args_parser(), experiments.get_parser()]
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


def test_commands_of_pages_have_no_placeholder_but_a_run_and_known_targets():
    commands = [command for page in PAGES for command in check_docs.read_commands(page.name, page.read_text("utf-8"))]
    assert len(commands) > 90
    assert [str(c) for c in commands if re.search("<(?!run>)", c.text) and not c.mark.startswith("skip")] == []
    for target in {c.text for c in commands if c.text.startswith("make ")}:
        dry_run = subprocess.run([*target.split(), "--dry-run"], cwd=ROOT, capture_output=True, check=False)
        assert dry_run.returncode == 0, target


@pytest.mark.parametrize("suffix", [".md", ".ko.md"])
def test_published_figures_are_quoted_rightly(suffix):
    with (ROOT / "data" / "published.csv").open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    text = (ROOT / "docs" / f"reproducing{suffix}").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    names = ("table", "row", "role", "test_split", "precision", "recall", "f1", "ccc_arousal", "ccc_valence")
    for row in published:
        if row["table"] not in {"3.1", "KEMDy20"} and row["ccc_arousal"]:
            assert [row[name] for name in names] in rows
    # The README's sentence: F1, CCC of arousal and of valence of both roles, with sessions 13-16 held out
    by_role = {row["role"]: row for row in published if row["table"] == "3.2" and row["test_split"] == "13-16"}
    figures = [by_role[role][name] for name in names[6:] for role in ("speaker", "listener")]
    paragraphs = (ROOT / f"README{suffix}").read_text("utf-8").split("\n\n")
    assert figures in [re.findall(r"(?<![\d-])\.\d{3}", paragraph) for paragraph in paragraphs]
