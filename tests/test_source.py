"""Rules that hold for the source of the package as a whole."""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "voxlive"


def test_class_names_are_unique_and_every_module_has_a_docstring():
    places, without = defaultdict(list), []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            without.append(str(path.relative_to(PACKAGE)))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    assert len(places) > 100
    assert not repeated, f"rename one of each, so that a name means one thing: {repeated}"
    assert not without, f"say in the first lines what the module is for: {without}"
