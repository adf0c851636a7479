"""What the pages for contributors say of the code is so."""

import re
from pathlib import Path

import voxlive

ROOT = Path(__file__).parents[2]
PACKAGE = Path(voxlive.__file__).parent


def test_the_life_of_a_frame_names_what_is_there():
    page = (ROOT / "docs" / "life-of-a-frame.md").read_text()
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    paths = {name for name in re.findall(r"`([\w/]+\.py)`", page) if "/" in name}
    assert len(paths) > 20
    assert {name for name in paths if not (PACKAGE / name).exists()} <= {"benchmarks/frame_path.py"}
    classes = set(re.findall(r"`([A-Z][A-Za-z]+)(?:\._?\w+)?`", page))
    assert len(classes) > 20
    assert {name for name in classes if not re.search(rf"class {name}\b", code)} == set()


def test_what_contributors_are_sent_to_is_there():
    """Paths and make targets of CONTRIBUTING."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in set(re.findall(r"(?<![\w./])(?:voxlive|tests|docs)/[\w./-]+", page)):
        assert (ROOT / path.rstrip("./")).exists(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)", page)):
        assert re.search(rf"^{target}:", makefile, re.M), f"there is no make {target}"
