"""The documentation as a site: ``make docs`` builds it into build/docs with Sphinx.

The pages are the Markdown files of this folder, as they read on a code host too. Files of the
repository's root have a page in ``project/``, which takes their text when it is built. What a
reader's browser loads comes from the built pages alone: the build fails where one names another
site in anything but a link.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import import_module, metadata
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.errors import ExtensionError

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

DOCS = Path(__file__).parent
ROOT = DOCS.parent

project = "voxlive"
author = "the voxlive authors"
project_copyright = author
release = metadata.version("voxlive")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["**/README.md"]
suppress_warnings = ["myst.header"]  # a page may begin at the second level, as the changelog's do
html_theme = "furo"
html_title = "voxlive"
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# A name of this package that a page refers to must be on a page; there is no index of others'.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!voxlive\.).*")]

PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/SPEED.md": "project/speed.md",
    "README.md": "index.md",
}
"""Files outside this folder, and the pages that stand for them."""
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def take_text(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give a page of ``project/`` its file's text, and point every page's links to pages."""
    page = f"{docname}.md"
    original = next((name for name, there in PAGES.items() if there == page), None)
    origin = DOCS / page
    if original and docname.startswith("project/"):
        origin = ROOT / original
        app.env.note_dependency(str(origin))
        source[0] = origin.read_text()

    def target(link: re.Match[str]) -> str:
        path = (origin.parent / link["path"]).resolve()
        if not path.is_relative_to(ROOT):
            return link["path"]
        name = path.relative_to(ROOT).as_posix()
        goal = DOCS / PAGES[name] if name in PAGES else path
        return relpath(goal, (DOCS / page).parent)

    source[0] = _LINK.sub(target, source[0])


def check_api(_app: Sphinx, env: BuildEnvironment) -> None:
    """Every public name of the package stands on the API page."""
    package = import_module("voxlive")
    there = {tuple(name.rsplit(".", 1)) for name in env.get_domain("py").objects}
    missing = []
    for name in sorted(package.__all__):
        home = getattr(getattr(package, name), "__module__", None)
        if not name.startswith("__") and not {("voxlive", name), (home, name)} & there:
            missing.append(name)
    if missing:
        raise ExtensionError(f"docs/api.md leaves out {', '.join(missing)}")


class Loads(HTMLParser):
    """The addresses that a browser loads by itself with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Everything but what a reader has to follow."""
        if tag != "a":
            self.found += [value or "" for name, value in attrs if name in ("src", "href", "data")]


_FROM_CSS = re.compile(r"(?:url\(|@import)\s*['\"]?(?P<address>[^'\")\s]+)")
_ELSEWHERE = re.compile(r"(?:[a-z]+:)?//")


def check_loads(app: Sphinx, error: Exception | None) -> None:
    """Nothing that is built loads anything from another site."""
    if error:
        return
    for path in Path(app.outdir).rglob("*"):
        if path.suffix not in (".html", ".css"):
            continue
        text = path.read_text()
        loads = Loads()
        if path.suffix == ".html":
            loads.feed(text)
        found = [*loads.found, *_FROM_CSS.findall(text)]
        elsewhere = [address for address in found if _ELSEWHERE.match(address)]
        if elsewhere:
            raise ExtensionError(f"{path.name} loads {', '.join(elsewhere)}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("source-read", take_text)
    app.connect("env-check-consistency", check_api)
    app.connect("build-finished", check_loads)
    return {"parallel_read_safe": True}
