"""Tutorials run, links lead somewhere, and the reference covers what is public."""

import re
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_run(page, tmp_path, monkeypatch):
    """All blocks of a page, in order, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    assert len(blocks) >= 3
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_table_of_methods_is_that_of_the_benchmark():
    result = ROOT / "results" / "interpolation_strict_standard.md"
    blocks = result.read_text().split("\n\n")
    table = next(block for block in blocks if block.startswith("| method |"))
    assert table in (ROOT / "docs" / "benchmarks.md").read_text()
    shown = (ROOT / "README.md").read_text()
    rows = [row for row in table.splitlines() if row in shown]
    assert len(rows) == 12  # ten, and the head


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorials_compile(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        assert compile(block, str(page), "exec")
