"""The pictures of page.md and the film of the README: the page as it is, over a real server.

    PYTHONPATH=tests python -m support.screenshots              # all of them
    PYTHONPATH=tests python -m support.screenshots --model whisper-tiny.en live phone

The server runs the default engine, base if it is here; on a machine with other work to do tiny.en
keeps up better. What is said are clips of ``tests/audio``, which a synthesiser
speaks, so nobody's voice is in them. Needs Chromium, Playwright and ffmpeg. Each picture is a WebP
of at most ``MOST_BYTES``.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import typer
from playwright.async_api import Page
from support.browser import WHERE, browsing, heard, shared_browsers, speaking, state_is
from support.clips import clip
from support.server import Server, serving

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "pictures"
FILM = DOCS / "page.gif"
MOST_BYTES = 150_000
SIZE = {"width": 1120, "height": 700}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
# Of the film: frames a second, how long it is, and how wide.
FRAMES, FILM_S, FILM_WIDTH = 8, 16, 800
ENOUGH_S = 27  # of the clip, for a page with some text on it
NAMES = {"market": "Shopping list", "doctor": "Call of the surgery", "library": "Opening hours"}


class Studio:
    """A server, clips to speak, and where pictures go."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.voice = clip("minute").write_wav(folder / "minute.wav")

    @asynccontextmanager
    async def page(self, speaking_for: float = 0, **context: object) -> AsyncIterator[Page]:
        """A page, which has heard so many seconds."""
        options = {"viewport": SIZE, "color_scheme": "light", "locale": "en-GB", **context}
        async with browsing(self.server.url, microphone=self.voice, **options) as watched:
            page = watched.page
            await page.wait_for_selector('#engine[data-health="ok"]')
            if speaking_for:
                await speaking(page)
                await heard(page, speaking_for)
                await page.wait_for_selector(".draft")
            yield page

    async def take(self, page: Page, name: str) -> None:
        """The page as a picture with this name."""
        png = self.folder / f"{name}.png"
        await page.screenshot(path=png)
        PICTURES.mkdir(exist_ok=True)
        webp = PICTURES / f"{name}.webp"
        ffmpeg("-i", str(png), "-c:v", "libwebp", "-quality", "82", str(webp))
        size = webp.stat().st_size
        typer.echo(f"{webp.relative_to(DOCS)}: {size / 1000:.0f} kB")
        assert size <= MOST_BYTES, webp


def ffmpeg(*args: str) -> None:
    subprocess.run(("ffmpeg", "-v", "error", "-y", *args), check=True)


async def idle(studio: Studio) -> None:
    async with studio.page() as page:
        await page.wait_for_selector("#together")
        await studio.take(page, "idle")


async def live(studio: Studio) -> None:
    async with studio.page(ENOUGH_S) as page:
        await studio.take(page, "live")


async def dark(studio: Studio) -> None:
    async with studio.page(ENOUGH_S, color_scheme="dark") as page:
        await page.keyboard.press("m")
        await heard(page, ENOUGH_S + 8)
        await studio.take(page, "dark")


async def captions(studio: Studio) -> None:
    settings = {"stageLines": 3, "stageSize": 72}
    async with studio.page(ENOUGH_S, color_scheme="dark", settings=settings) as page:
        await page.keyboard.press("f")
        await page.wait_for_selector("#stage[open]")
        await page.mouse.move(SIZE["width"] / 2, SIZE["height"] / 2)
        await heard(page, ENOUGH_S + 6)
        hidden = "() => getComputedStyle(document.querySelector('.stage-controls')).opacity === '0'"
        await page.wait_for_function(hidden)
        await studio.take(page, "captions")


async def share(studio: Studio) -> None:
    """The dialog, and what one of its readers sees."""
    async with studio.page(ENOUGH_S) as page:
        await page.click("#open-share")
        await page.wait_for_selector("#share-made:not([hidden])")
        link = await page.input_value("#share-url")
        tablet = {"viewport": {"width": 820, "height": 700}, "color_scheme": "dark"}
        async with browsing(link, granted=False, ready="#text span", **tablet) as other:
            await page.wait_for_function("() => !document.querySelector('#share-count').hidden")
            await studio.take(page, "share")
            await heard(page, ENOUGH_S + 12)
            await studio.take(other.page, "reading")


async def history(studio: Studio) -> None:
    files = [
        shutil.copy(clip(name).path, studio.folder / f"{title}.flac")
        for name, title in NAMES.items()
    ]
    async with studio.page(12) as page:
        await page.click("#toggle")
        await state_is(page, "stopped")
        for file in files:
            await page.set_input_files("#file", file)
            await state_is(page, "uploading")
            await state_is(page, "stopped")
        await page.click("#open-sessions")
        await page.wait_for_selector(".session")
        await studio.take(page, "history")


async def correct(studio: Studio) -> None:
    async with studio.page(ENOUGH_S) as page:
        await page.click("#pause-sound")
        await page.mouse.dblclick(*await page.evaluate(WHERE, "river"))
        await page.wait_for_selector(".correct-text")
        await studio.take(page, "correct")


async def phone(studio: Studio) -> None:
    async with studio.page(ENOUGH_S, **PHONE) as page:
        await studio.take(page, "phone")


async def right_to_left(studio: Studio) -> None:
    async with studio.page(settings={"pageLanguage": "ar"}) as page:
        await page.wait_for_selector("html[dir=rtl]")
        await page.click("#open-settings")
        await studio.take(page, "right-to-left")


async def film(studio: Studio) -> None:
    """The beginning of a session, from Start on."""
    frames = studio.folder / "film"
    frames.mkdir()
    async with studio.page(viewport={"width": 960, "height": 600}) as page:
        await speaking(page)
        clock = asyncio.get_running_loop().time
        begun, shown = clock(), []
        while (at := clock() - begun) < FILM_S:
            shown.append(at)
            await page.screenshot(path=frames / f"{len(shown):04}.png")
            await asyncio.sleep(max(0.0, begun + at + 1 / FRAMES - clock()))
    # As fast as it was, however long a picture took.
    ends = [*shown[1:], FILM_S]
    listed = [
        f"file {number:04}.png\nduration {end - start:.3f}\n"
        for number, (start, end) in enumerate(zip(shown, ends, strict=True), 1)
    ]
    (frames / "list.txt").write_text("".join(listed))
    scaled = f"fps={FRAMES},scale={FILM_WIDTH}:-1:flags=lanczos,split[a][b]"
    palette = "[a]palettegen=max_colors=48:stats_mode=diff[p];[b][p]paletteuse=dither=none"
    source = ("-f", "concat", "-i", str(frames / "list.txt"))
    ffmpeg(*source, "-vf", f"{scaled};{palette}", "-loop", "0", str(FILM))
    typer.echo(f"{FILM.name}: {FILM.stat().st_size / 1000:.0f} kB")


ALL: Sequence[Callable[[Studio], Awaitable[None]]] = (
    *(idle, live, captions, share, history, correct, phone, dark, right_to_left, film),
)


async def run(wanted: Sequence[str], model: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        args = ("--max-sessions", "4", "--store", str(folder / "store"))
        with serving(*args, *(("--model", model) if model else ())) as server:
            async with shared_browsers():
                for picture in ALL:
                    if not wanted or picture.__name__ in wanted:
                        await picture(Studio(server, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", choices=[[], *(one.__name__ for one in ALL)])
    parser.add_argument("--model")
    args = parser.parse_args()
    asyncio.run(run(args.pictures, args.model))


if __name__ == "__main__":
    main()
