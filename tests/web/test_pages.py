"""The page's files and the headers that they are served with."""

import json
import re
import shutil
from pathlib import Path

import httpx

from voxlive.web import pages

STATIC = Path(__file__).parents[2] / "voxlive" / "web" / "static"
TEXTS = (".html", ".css", ".js", ".json", ".svg", ".ts", ".webmanifest")
FONTS = STATIC / "fonts"


def test_no_markup_injection_and_no_external_resources():
    """Besides, the tests in a browser see every request."""
    for path in (one for one in STATIC.rglob("*") if one.suffix in TEXTS):
        source = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", source)
        addresses = set(re.findall(r"https?://[^\s\"'`$]+", source))
        names = {"http://www.w3.org/2000/svg", "http://schemas.openxmlformats.org"}
        assert addresses <= {*names, "http://localhost:"}, path
        assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", source), path
        # Every address is relative, so that the page works below any root path.
        # Of two elements with one name a script finds the first alone.
        ids = re.findall(r"<[^>]*\sid=\"([^\"]+)\"", source) if path.suffix == ".html" else []
        assert len(ids) == len({*ids}), path
        assert not re.search(r"(href|src)=\"/|from \"/|(?<!Of)\(\"/|url\((?!fonts/)", source), path


def test_fonts_are_small_and_come_with_their_licences(server):
    faces = sorted(path.name for path in FONTS.glob("*.woff2"))
    named = re.findall(r"url\(fonts/([^)]+)\)", (STATIC / "fonts.css").read_text())
    assert sorted(named) == faces
    assert sum((FONTS / name).stat().st_size for name in faces) < 160_000
    for name in faces:
        licence = (FONTS / f"{name.split('-')[0]}-OFL.txt").read_text()
        assert "SIL OPEN FONT LICENSE Version 1.1" in licence, name
    with httpx.Client(base_url=server.url, timeout=60) as client:
        found = client.get(f"/static/fonts/{faces[0]}")
        assert found.headers["content-type"] == "font/woff2"
        assert found.content[:4] == b"wOF2"


def test_the_kept_page_is_another_one_when_any_of_its_files_is(tmp_path, monkeypatch):
    folder = tmp_path / "static"
    shutil.copytree(STATIC, folder)
    monkeypatch.setattr(pages, "STATIC", folder)

    def shell() -> dict:
        return pages.Pages().shell

    before = shell()
    assert {"app.js", "languages/ar.json", "favicon.svg"} <= set(before["files"])
    assert not any(file.endswith((".mp3", ".woff2", ".png")) for file in before["files"])
    assert shell() == before
    for file in ("index.html", "app.js", "languages/ar.json"):
        with (folder / file).open("a") as page:
            page.write(" ")
        assert shell()["version"] != before["version"]
        before = shell()


def test_the_page_has_security_headers(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "microphone=(self)" in page.headers["permissions-policy"]
        again = client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304
        assert client.get("/static/none.js").status_code == 404
        assert json.loads(client.get("/static/../app.py").text)["error"]["code"] == "not_found"
