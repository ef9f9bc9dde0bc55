"""What a release says in other places is what pyproject.toml says."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# as conda-forge calls them
CONDA_NAMES = {"huggingface-hub": "huggingface_hub", "matplotlib": "matplotlib-base"}
CONDA_NAMES |= {"POT": "pot", "torch": "pytorch"}


def test_the_recipe_has_the_dependencies():
    recipe = yaml.safe_load((ROOT / "release" / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == PROJECT["version"]
    assert recipe["about"]["license"] == PROJECT["license"]
    asked = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["plot"]
    pairs = [re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in asked]
    expected = {f"{CONDA_NAMES.get(name, name)} >={least}" for name, least in pairs}
    assert {f"python {PROJECT['requires-python']}", *expected} == set(recipe["requirements"]["run"])
    (script,) = recipe["build"]["python"]["entry_points"]
    assert script == f"cellmnn = {PROJECT['scripts']['cellmnn']}"


def test_the_registry_entry():
    entry = yaml.safe_load((ROOT / "release" / "scverse" / "meta.yaml").read_text())
    assert entry["install"] == {"pypi": PROJECT["name"]}
    assert entry["license"] == PROJECT["license"]
    needed = {"name", "description", "project_home", "documentation_home", "license", "tags"}
    assert needed | {"primary_category", "language", "category"} <= set(entry)
    assert 1 <= len(entry["tags"]) <= 10


def test_the_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert f"{{{PROJECT['version']}}}" in (ROOT / "docs" / "citing.md").read_text()
