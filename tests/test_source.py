"""Rules that hold for the source of the package as a whole."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "voxlive"


@cache
def modules() -> dict[Path, ast.Module]:
    """Parsed when a test needs them: every worker imports this file."""
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def test_class_names_are_unique():
    places = defaultdict(list)
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    assert len(places) > 100
    assert not repeated, f"rename one of each, so that a name means one thing: {repeated}"


def test_every_module_has_a_docstring():
    without = [
        str(path.relative_to(PACKAGE))
        for path, tree in modules().items()
        if not ast.get_docstring(tree)
    ]
    assert not without, f"say in the first lines what the module is for: {without}"
