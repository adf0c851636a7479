"""The system's Chromium with a fake microphone, driven by Playwright; a line that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Debian's Chromium without what is around a page takes a third less of the processor.
_SHELL = "chromium-headless-shell"
PATIENCE_MS = 120_000
"""How long a page may take for what it is waited for: a busy machine says nothing of it."""
_FAKE_DEVICE = ("--use-fake-device-for-media-stream",)
_GRANTED = ("--use-fake-ui-for-media-stream",)
# A fifth of what a page costs is a page of the browser's own, its address bar's; a sixth is a
# process that waits for another page. Chromium takes the last such list: the others are
# Playwright's.
_OFF = (
    "WebUIOmniboxPopup,AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,"
    "HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,LensOverlay,MediaRouter,PaintHolding,"
    "ThirdPartyStoragePartitioning,AvoidCorsURLLoaderRestartOnRedirect,OptimizationHints,"
    "NetworkTimeServiceQuerying,AimEnabled,PreconnectToSearch,WebUIOmniboxAimPopup,"
    "WebUIOmniboxFullPopup,"
    "SpareRendererForSitePerProcess"
)
_ALWAYS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    f"--disable-features={_OFF}",
)
_USUAL = (*_ALWAYS, *_FAKE_DEVICE, *_GRANTED)

PLAIN = {"echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}
"""Settings of a page that takes its microphone's sound as it is."""

# The middle of a word on the screen.
WHERE = """(word) => {
  for (const p of document.querySelectorAll(".paragraph p")) {
    const at = p.firstChild.data.indexOf(word);
    if (at < 0) continue;
    const range = document.createRange();
    range.setStart(p.firstChild, at);
    range.setEnd(p.firstChild, at + word.length);
    const box = range.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  }
}"""


def chromium() -> str:
    """The browser's path; where none can be driven the test is skipped.

    It fails instead if a browser is required.
    """
    path, obstacle = look_for_chromium()
    if obstacle:
        if os.environ.get("VOXLIVE_REQUIRE_BROWSER") == "1":
            pytest.fail(obstacle)
        pytest.skip(obstacle)
    return path


@cache
def look_for_chromium() -> tuple[str, str]:
    """The browser's path, and why it cannot be driven on this machine, if so."""
    path = next(filter(None, map(shutil.which, _NAMES)), "")
    if not path:
        return "", "no Chromium on this machine: install the package chromium"
    driver = (sys.executable, "-m", "playwright", "--version")
    for what, command in (("Chromium", (path, "--version")), ("Playwright's driver", driver)):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            [*_, reason] = done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"]
            return path, f"{what} does not start on this machine: {reason}"
    return path, ""


@dataclass
class WatchedPage:
    """A page and what it did. ``expected``: parts of error messages that are in order; ``others``:
    hosts and ports besides its own that it may ask.
    """

    page: Page
    origin: str
    expected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    others: set[str] = field(default_factory=set)

    def check(self) -> None:
        errors = [e for e in self.errors if not any(part in e for part in self.expected)]
        assert not errors, errors
        outside = [url for url in self.requests if not self._is_ours(url)]
        assert not outside, outside

    def _is_ours(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in ("blob", "data") or parts.netloc in {self.origin, *self.others}


class Browsers:
    """One Playwright on one event loop, and two browsers for what needs no flags of its own.

    The microphone of one of them plays a file, which each recording reads anew from its place.
    A profile of theirs with nothing special serves one page after the other: making one is a third
    of what a page costs.
    """

    current: Browsers | None = None

    def __init__(self) -> None:
        self._playwright = async_playwright()
        self._loop = asyncio.get_running_loop()
        self._folder = TemporaryDirectory()
        self._sound = Path(self._folder.name) / "microphone.wav"
        self._plays = f"--use-file-for-fake-audio-capture={self._sound}%noloop"
        self._shared: dict[tuple[str, ...], Browser] = {}
        self._free: dict[Browser, BrowserContext] = {}

    @classmethod
    def here(cls) -> Browsers | None:
        """Those that are shared on the running event loop."""
        current = cls.current
        return current if current and current._loop is asyncio.get_running_loop() else None

    async def __aenter__(self) -> Browsers:
        chromium()  # Without one Playwright's driver is not started: it needs libraries of its own.
        self._chromium = (await self._playwright.start()).chromium
        return self

    async def __aexit__(self, *_: object) -> None:
        for browser in self._shared.values():
            await browser.close()
        await self._playwright.__aexit__()
        self._folder.cleanup()

    @asynccontextmanager
    async def browser(
        self,
        flags: tuple[str, ...] = _USUAL,
        microphone: Path | None = None,
        *,
        muted: bool = True,
        whole: bool = False,
    ) -> AsyncIterator[Browser]:
        """A browser with these flags; what is opened in it is the caller's to close."""
        if microphone:
            shutil.copy(microphone, self._sound)
        usual = flags == _USUAL and muted and not whole
        flags += (self._plays,) if microphone else ()
        if usual:
            if flags not in self._shared:
                self._shared[flags] = await self._launch(flags, shutil.which(_SHELL))
            yield self._shared[flags]
        else:
            browser = await self._launch(flags, muted=muted)
            try:
                yield browser
            finally:
                await browser.close()

    @asynccontextmanager
    async def page(
        self, browser: Browser, url: str, options: Mapping[str, object]
    ) -> AsyncIterator[Page]:
        """An empty page; its profile has nothing of the address where it goes."""
        profile = None if options else self._free.pop(browser, None)
        if profile:
            page = await profile.new_page()
            session = await profile.new_cdp_session(page)
            everything = {"origin": "/".join(url.split("/")[:3]), "storageTypes": "all"}
            await session.send("Storage.clearDataForOrigin", everything)
            await session.detach()
            await profile.clear_cookies()
        else:
            # What is kept of the page for later would be fetched once more in each test.
            usual = {"viewport": {"width": 1280, "height": 800}, "service_workers": "block"}
            profile = await browser.new_context(**{**usual, **options})
            profile.set_default_timeout(PATIENCE_MS)
            page = await profile.new_page()
        try:
            yield page
        finally:
            if options or browser in self._free or browser not in self._shared.values():
                await profile.close()
            else:
                for one in profile.pages:
                    await one.close()
                self._free[browser] = profile

    async def _launch(
        self, flags: tuple[str, ...], path: str | None = None, *, muted: bool = True
    ) -> Browser:
        unmuted = None if muted else ["--mute-audio"]
        return await self._chromium.launch(
            executable_path=path or chromium(), args=flags, ignore_default_args=unmuted
        )


@asynccontextmanager
async def shared_browsers() -> AsyncIterator[None]:
    """Until the end, ``browsing`` on this event loop takes its browsers from here."""
    async with Browsers() as browsers:
        Browsers.current = browsers
        try:
            yield
        finally:
            Browsers.current = None


@asynccontextmanager
async def browsing(
    url: str,
    *,
    microphone: Path | None = None,
    granted: bool = True,
    device: bool = True,
    args: tuple[str, ...] = (),
    settings: Mapping[str, object] | str = PLAIN,
    muted: bool = True,
    whole: bool = False,
    ready: str = "body[data-toggle]",
    **context: object,
) -> AsyncIterator[WatchedPage]:
    """A page on ``url`` whose microphone plays a WAV file once; checked for errors at the end.

    ``settings`` are what the page finds in its storage beside ``PLAIN``, or that text as it is;
    ``ready`` selects what shows that it has started. What a tab of a ``muted`` browser plays cannot
    be captured. ``whole``: with what a browser has around a page, which one with flags always is.
    """
    kept = settings if isinstance(settings, str) else json.dumps({**PLAIN, **settings})
    flags = (*_ALWAYS, *(_FAKE_DEVICE if device else ()), *(_GRANTED if granted else ()), *args)
    async with AsyncExitStack() as stack:
        browsers = Browsers.here() or await stack.enter_async_context(Browsers())
        browser = await stack.enter_async_context(
            browsers.browser(flags, microphone, muted=muted, whole=whole)
        )
        page = await stack.enter_async_context(browsers.page(browser, url, context))
        watched = WatchedPage(page, urlsplit(url).netloc)
        page.on("console", lambda m: m.type == "error" and watched.errors.append(m.text))
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        page.on("websocket", lambda socket: watched.requests.append(socket.url))
        await page.add_init_script(
            f"if (localStorage.voxlive === undefined) localStorage.voxlive = {kept!r};"
        )
        await page.goto(url)
        await page.wait_for_selector(ready)
        yield watched
    watched.check()


@asynccontextmanager
async def without_the_page(url: str) -> AsyncIterator[WatchedPage]:
    """A document of the server's into which modules of the page can be imported.

    Starting the page takes two thirds of a visit's time.
    """
    async with browsing(f"{url}/health", ready="pre") as watched:
        watched.expected.append("404")  # it has no icon
        yield watched


async def state_is(page: Page, *states: str) -> str:
    """Wait until the page is in one of the states."""
    handle = await page.wait_for_function(
        "states => states.includes(document.body.dataset.state) && document.body.dataset.state",
        arg=list(states),
    )
    return await handle.json_value()


async def shows(page: Page, where: str, text: str) -> None:
    """Wait until an element has the text."""
    await page.wait_for_function(
        "([where, text]) => document.querySelector(where)?.textContent.includes(text)",
        arg=[where, text],
    )


async def speaking(page: Page) -> None:
    """Start and wait until the server listens."""
    await page.click("#toggle")
    assert await state_is(page, "listening", "error") == "listening"


async def heard(page: Page, seconds: float = 0) -> None:
    """Wait until so much sound was taken; the page's clock counts samples."""
    await page.wait_for_function(
        """(seconds) => {
          const text = document.querySelector("#detail").textContent;
          const at = /^(?:(\\d+):)?(\\d+):(\\d+)/.exec(text);
          return at && (at[1] ?? 0) * 3600 + at[2] * 60 + +at[3] >= seconds;
        }""",
        arg=seconds,
    )


async def stopped(page: Page) -> None:
    """Stop and wait until the last words are there."""
    await page.click("#toggle")
    assert await state_is(page, "stopped", "error") == "stopped"


async def reload(page: Page) -> None:
    """As after a crash: without a question, and nothing is waited for.

    Of what is not written yet the page asks, and Playwright would stay on it.
    """
    page.once("dialog", lambda dialog: dialog.accept())
    await page.reload()


class ProxiedLine:
    """A TCP relay to a server; once ``cut`` all is broken and refused, until ``mend``."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lead_to(self, url: str) -> None:
        """New connections are to this server."""
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)

    def cut(self) -> None:
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._open = True

    async def close(self) -> None:
        self.cut()
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection(*self._to)
        self._writers |= {writer, up_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))
        for end in (writer, up_writer):
            self._writers.discard(end)
            end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


@asynccontextmanager
async def line_to(url: str) -> AsyncIterator[ProxiedLine]:
    """A line to a server, in order at first."""
    parts = urlsplit(url)
    line = ProxiedLine(parts.hostname, parts.port)
    await line.start()
    try:
        yield line
    finally:
        await line.close()
