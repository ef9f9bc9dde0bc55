"""What a reader may count on: names that say something, shapes, descriptions, docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [
    path
    for folder in ("cellmnn_fm", "studies", "benchmarks", "pretraining", "finetune")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PACKAGE = [path for path in CODE if "cellmnn_fm" in path.relative_to(ROOT).parts]
# what may be anything
SILENT = {
    *("found", "at", "one", "ones", "of", "own", "it", "them", "both", "these", "those", "this"),
    *("that", "some", "what", "thing", "things", "stuff", "tmp", "temp", "res", "ret", "obj"),
    *("foo", "bar", "val", "vals"),
}
ARRAY = re.compile(r"\b(NDArray|Tensor|Matrix)\b")


def functions(tree, owner=""):
    """Functions and methods with their dotted names, but for nested ones."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield owner + node.name, node
        elif isinstance(node, ast.If | ast.Try):
            yield from functions(node, owner)


def listed_without_description(docstring):
    """Entries of Parameters and Attributes that nothing is said of."""
    lines, section = docstring.split("\n"), None
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if re.fullmatch("-{3,}", below):
            section = line
        elif (
            section in ("Parameters", "Attributes")
            and re.match(r"[\w*].* : ", line)
            and not below.startswith("    ")
        ):
            yield line


def test_names_say_something():
    stored, silent = 0, []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                stored += 1
                if node.id in SILENT:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.id}")
    assert stored > 5000
    assert len(silent) < 0.01 * stored, silent


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings(path):
    """Every function has one; of public ones it has the shape of every array that is a parameter.

    And of every parameter and attribute that is listed something is said.
    """
    tree = ast.parse(path.read_text())
    for name, function in functions(tree):
        docstring = ast.get_docstring(function)
        special = re.search(r"__\w+__$", name)  # documented by the class, or by the language
        assert docstring or special, f"{name} has no docstring"
        if any(part.startswith("_") for part in name.split(".")):
            continue
        for argument in function.args.args + function.args.kwonlyargs:
            kind = "" if argument.annotation is None else ast.unparse(argument.annotation)
            if ARRAY.search(kind) and "Callable" not in kind:
                shape = rf"\b{argument.arg}\b`?[^\n(]*\([a-z_0-9 +·.,-]+\)"
                assert re.search(shape, docstring), f"{name}: shape of {argument.arg}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            missing = list(listed_without_description(ast.get_docstring(node) or ""))
            assert not missing, f"{node.name}: {missing}"
