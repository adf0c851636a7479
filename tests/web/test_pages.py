"""The page's files as they are served."""

import re
from pathlib import Path

STATIC = Path(__file__).parents[2] / "voxlive" / "web" / "static"


def test_no_markup_injection_and_no_external_resources():
    """Besides, the tests in a browser see every request."""
    for path in STATIC.iterdir():
        source = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", source)
        addresses = set(re.findall(r"https?://[^\s\"'`$]+", source))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://localhost:"}, path
        assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", source), path
        # Every address is relative, so that the page works below any root path.
        assert not re.search(r"(href|src)=\"/|from \"/|(?<!Of)\(\"/|url\(", source), path
