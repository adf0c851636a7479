"""Where no browser can be driven its tests are skipped with what is missing, before any starts."""

from pathlib import Path

import pytest
from support import browser

MISSING = "error while loading shared libraries: libatomic.so.1: cannot open shared object file"


@pytest.fixture(autouse=True)
def _looked_for_anew():
    browser.look_for_chromium.cache_clear()
    yield
    browser.look_for_chromium.cache_clear()


@pytest.fixture
def programs(monkeypatch, tmp_path) -> Path:
    """The only folder in which programs are found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VOXLIVE_REQUIRE_BROWSER", raising=False)
    return tmp_path


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


async def test_without_chromium_playwright_is_not_started(monkeypatch, programs):
    ran = programs / "ran"
    program(programs / "node", f"echo > {ran}; exit 1")
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", str(programs / "node"))
    with pytest.raises(pytest.skip.Exception, match="install the package chromium"):
        async with browser.shared_browsers():
            pass
    assert not ran.exists()


def test_a_chromium_without_its_libraries_is_an_obstacle(programs):
    program(programs / "chromium", f"echo '{MISSING}' >&2; exit 127")
    with pytest.raises(pytest.skip.Exception, match=f"Chromium does not start .*{MISSING}"):
        browser.chromium()


def test_a_driver_without_its_libraries_is_an_obstacle(monkeypatch, programs):
    program(programs / "chromium", "exit 0")
    program(programs / "node", f"echo '{MISSING}' >&2; exit 127")
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", str(programs / "node"))
    with pytest.raises(pytest.skip.Exception, match=f"driver does not start .*{MISSING}"):
        browser.chromium()


def test_a_browser_that_is_required_is_not_skipped(monkeypatch, programs):
    monkeypatch.setenv("VOXLIVE_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        browser.chromium()


def test_where_both_start_nothing_is_in_the_way(monkeypatch, programs):
    program(programs / "google-chrome", "exit 0")
    program(programs / "node", "exit 0")
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", str(programs / "node"))
    assert browser.chromium() == str(programs / "google-chrome")
