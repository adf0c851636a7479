"""The page of a server that needs a key: it asks once, and gives it to nobody else."""

import pytest
from support.browser import browsing, line_to, reload, shows, state_is
from support.clips import clip
from support.server import serving
from support.weights import TINY_EN_ID

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
KEY = "the-key-of-the-page"


@pytest.fixture(scope="module")
def keyed():
    with serving("--max-sessions", "2", key=KEY) as server:
        yield server


async def give(page, key):
    await page.wait_for_selector("#ask-key[open]")
    await page.fill("#key", key)
    await page.keyboard.press("Enter")


async def test_it_asks_once_and_speaks_with_a_short_lived_one(keyed, tmp_path):
    wav = clip("doctor").write_wav(tmp_path / "clip.wav")
    async with browsing(keyed.url, microphone=wav) as watched:
        watched.expected.append("401")
        page = watched.page
        await page.wait_for_selector("#ask-key[open]")
        assert await page.evaluate("document.activeElement.id") == "key"
        assert await page.inner_text("#engine-name") == "A key is needed"
        await page.screenshot(path=tmp_path / "asked.png")
        await give(page, "not-the-key-of-the-page")
        await shows(page, "#ask-key-why", "did not accept")
        await give(page, KEY)
        await shows(page, "#engine-name", TINY_EN_ID)
        await page.click("#toggle")
        assert await state_is(page, "listening", "error") == "listening"
        await shows(page, "#paragraphs", "doctor")
        await page.click("#toggle")
        assert await state_is(page, "stopped", "error") == "stopped"
        # Nowhere but in this tab's memory: not in an address, and gone with the tab.
        assert not any(KEY in url for url in watched.requests)
        assert KEY not in await page.evaluate("JSON.stringify(localStorage) + document.cookie")
        assert await page.input_value("#key") == ""
        await reload(page)
        await shows(page, "#engine-name", TINY_EN_ID)
        assert not await page.is_visible("#ask-key")


async def test_the_session_goes_on_with_another_short_lived_one(keyed):
    async with line_to(keyed.url) as line, browsing(line.url) as watched:
        watched.expected = ["401", "WebSocket connection", "Failed to load", "net::ERR"]
        page = watched.page
        await give(page, KEY)
        await shows(page, "#engine-name", TINY_EN_ID)
        await page.click("#toggle")
        assert await state_is(page, "listening", "error") == "listening"
        line.cut()
        await state_is(page, "reconnecting")
        line.mend()
        await shows(page, "#detail", "connected again, nothing is lost")
        await page.click("#toggle")
        assert await state_is(page, "idle", "stopped", "error") != "error"
        assert await page.locator(".mark").count() == 0


@pytest.mark.endurance
async def test_a_file_goes_with_the_key_and_later_is_an_answer_too(keyed):
    async with browsing(keyed.url) as watched:
        page = watched.page
        await page.wait_for_selector("#ask-key[open]")
        await page.click("#ask-key-later")
        await page.click("#toggle")
        await give(page, KEY)
        await shows(page, "#engine-name", TINY_EN_ID)
        await page.set_input_files("#file", clip("yes").path)
        assert await state_is(page, "stopped", "error") == "stopped"
        assert await page.text_content("#paragraphs")
