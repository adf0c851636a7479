"""Who comes for the first time: in any language, without a microphone, with a program, offline."""

import asyncio
import json
import sys

import pytest
from support.browser import browsing, line_to, state_is
from support.clips import clip
from support.scoring import spelt
from support.server import AT_PAUSES, serving

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
KEY = "the-key-of-the-first-page"
PLAYED = "Welcome. You hear a short sentence, and you can read every word of it on this page."


@pytest.fixture(scope="module")
def keyed():
    with serving("--max-sessions", "2", *AT_PAUSES, key=KEY) as server:
        yield server


@pytest.mark.long
async def test_it_speaks_the_readers_language_from_the_first_paint(server, tmp_path):
    phone = {"width": 390, "height": 844}
    async with browsing(server.url, locale="de-AT", viewport=phone) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert await page.evaluate("[document.documentElement.lang, document.dir]") == ["de", "ltr"]
        assert await page.inner_text("#status") == "Bereit"
        assert await page.text_content("#engine-limits") == "Nur Englisch"
        assert "Nur Englisch: " in await page.inner_text("#note-text")
        assert "German" not in await page.locator("#language option").all_inner_texts()
        # Without its texts nothing is painted; in English the page would be there at once.
        other = await page.context.new_page()
        arrived = asyncio.Event()

        async def late(route):
            await arrived.wait()
            await route.continue_()

        await other.route("**/languages/*.json", late)
        await other.goto(server.url, wait_until="commit")
        await other.wait_for_selector(":root[data-untranslated]", state="attached")
        assert not await other.is_visible("h2")
        arrived.set()
        await other.wait_for_selector("h2:has-text('Sprechen')")
        await other.close()
        # Another one is chosen, stays, and runs the other way.
        await page.click("#open-settings")
        await page.select_option("#page-language", "ar")
        await page.wait_for_selector(":root[dir=rtl]")
        await page.keyboard.press("Escape")
        assert await page.inner_text("#toggle-text") == "ابدأ"
        assert await page.inner_text("#status") == "جاهز"
        await page.reload()
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert await page.evaluate("[document.documentElement.lang, document.dir]") == ["ar", "rtl"]
        start, wide = await page.evaluate(
            "[document.querySelector('.brand').getBoundingClientRect().right, innerWidth]"
        )
        assert wide - start < 40
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.screenshot(path=tmp_path / "arabic.png")


@pytest.mark.endurance
async def test_without_a_microphone_a_sentence_shows_how_it_works(server, tmp_path):
    async with browsing(server.url, device=False) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.click("#demo")
        assert await state_is(page, "listening", "error") == "listening"
        await page.screenshot(path=tmp_path / "demo.png")
        assert await state_is(page, "stopped", "error") == "stopped"
        said = await page.inner_text("#paragraphs p")
        assert spelt(said) == spelt(PLAYED)
        # It is nobody's transcript: nothing of it is kept, and the next one begins without it.
        await page.keyboard.press("t")
        await page.wait_for_selector("#sessions-empty:not([hidden])")
        await page.keyboard.press("Escape")
        await page.click("#toggle")
        await page.wait_for_selector("#notice:not([hidden])")
        assert await page.inner_text("#paragraphs") == ""


async def run(program: str, folder) -> str:
    """What a program prints, in a folder with the file that it reads."""
    process = await asyncio.create_subprocess_exec(
        *(("sh", "-c", program) if program.startswith("curl") else (sys.executable, "-c", program)),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    return out.decode()


# Programs of other libraries are run by the tests of the quick starts too.
@pytest.mark.endurance
@pytest.mark.parametrize("others", [False, True])
async def test_a_program_for_this_server_is_there_to_be_copied(keyed, tmp_path, others):
    """The key is in the address, as it is in the code of --phone: it leaves no trace."""
    wav = clip("doctor").write_wav(tmp_path / "speech.wav")
    async with browsing(f"{keyed.url}/#key={KEY}") as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.wait_for_function(
            "() => !document.querySelector('#engine-name').textContent.includes('key')"
        )
        assert page.url == f"{keyed.url}/"
        await page.click("#engine")
        await page.click("#open-developers")
        programs = {}
        for name in await page.locator("#developers-choices button").all_inner_texts():
            await page.click(f"#developers-choices button:text-is('{name}')")
            shown = await page.inner_text("#developers-code")
            assert keyed.url.partition("://")[2] in shown
            assert KEY not in shown
            programs[name] = shown.replace("YOUR_KEY", KEY)
        await page.screenshot(path=tmp_path / "developers.png")
        assert set(programs) == {"JavaScript", "Python", "curl", "Deepgram", "OpenAI"}
        for_page = programs.pop("JavaScript")
        if not others:
            programs = {name: programs[name] for name in ("Python", "curl")}
        printed = asyncio.gather(*(run(program, tmp_path) for program in programs.values()))
        await page.route("**/speech.wav", lambda route: route.fulfill(path=wav))
        async with page.expect_console_message(lambda one: "afternoon" in one.text):
            await page.evaluate(f"() => {{ {for_page} }}")
        for name, text in zip(programs, await printed, strict=True):
            assert {"doctor", "afternoon"} <= set(spelt(text)), (name, text)


@pytest.mark.long
async def test_without_its_server_it_starts_says_so_and_has_what_is_kept(server, tmp_path):
    async with (
        line_to(server.url) as line,
        browsing(line.url, service_workers="allow") as watched,
    ):
        watched.expected = ["net::ERR", "Failed to load"]
        page = watched.page
        await page.set_input_files("#file", clip("yes").path)
        assert await state_is(page, "stopped", "error") == "stopped"
        await page.evaluate("navigator.serviceWorker.ready")
        stored = await page.evaluate(
            """async () => {
              const names = await caches.keys();
              const cache = await caches.open(names[0]);
              const { version } = await (await fetch("static/shell.json")).json();
              return [names, version, (await cache.keys()).map(({ url }) => url)];
            }"""
        )
        names, version, addresses = stored
        assert names == [f"voxlive-shell-{version}"]
        assert f"{line.url}/" in addresses
        assert all(one == f"{line.url}/" or "/static/" in one for one in addresses)
        assert not any(one.endswith((".mp3", ".png")) or "?" in one for one in addresses)
        line.cut()
        await page.reload()
        await page.wait_for_selector("#notice:not([hidden])")
        assert await page.inner_text("#notice-title") == "The server cannot be reached"
        await page.click("#open-sessions")
        await page.wait_for_selector("#sessions-list .session")
        assert "yes" in (await page.inner_text("#sessions-list .session")).lower()
        await page.screenshot(path=tmp_path / "offline.png")
        await page.keyboard.press("Escape")
        # With its server back the page is the server's own again.
        async with page.expect_navigation():
            line.mend()
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert not await page.is_visible("#notice")


async def test_it_can_be_installed(server):
    async with browsing(server.url, whole=True) as watched:
        page = watched.page
        manifest = json.loads(
            await page.evaluate(
                "async () => (await fetch(document.querySelector('[rel=manifest]').href)).text()"
            )
        )
        session = await page.context.new_cdp_session(page)
        problems = await session.send("Page.getInstallabilityErrors")
        # A browser of the tests keeps nothing, which is the one obstacle.
        [problem] = problems["installabilityErrors"]
        assert problem["errorId"] == "in-incognito"
        assert {icon["sizes"] for icon in manifest["icons"]} == {"any", "192x192", "512x512"}
