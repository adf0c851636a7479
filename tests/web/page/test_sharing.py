"""Sharing what one says: a link, its readers in another browser, and the overlay, with a key."""

import asyncio
import signal

import pytest
from support.browser import browsing, shows, state_is
from support.clips import clip
from support.restarting import restarted

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
KEY = "the-key-of-the-page"


async def words(page, where):
    return (await page.text_content(where)).split()


@pytest.mark.long
async def test_a_second_browser_reads_what_the_first_speaks_over_a_restart(tmp_path):
    wav = clip("message").write_wav(tmp_path / "clip.wav")
    args = ("--store", str(tmp_path / "store"), "--api-key", KEY)
    with restarted(*args) as running:
        url = running.server.url
        async with browsing(url, microphone=wav) as watched:
            watched.expected = ["401", "WebSocket connection", "Failed to load", "net::ERR"]
            page = watched.page
            await page.wait_for_selector("#ask-key[open]")
            await page.fill("#key", KEY)
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#engine[data-health=ok]")
            # One button makes the link, before there is a session.
            await page.click("#open-share")
            await page.wait_for_selector("#share-made:not([hidden])")
            link = await page.input_value("#share-url")
            assert link.startswith(f"{url}/read#rd_")
            assert KEY not in link
            assert await page.eval_on_selector("#share-qr", "image => image.decode().then(() => 1)")
            assert await page.is_visible("#share-here")
            overlay_link = await page.get_attribute("#share-overlay", "href")
            await page.click("#share-close")
            phone = {"viewport": {"width": 390, "height": 844}, "locale": "en"}
            waiting = "body[data-state=waiting]"
            async with browsing(link, granted=False, ready=waiting, **phone) as other:
                other.expected = ["Failed to load", "net::ERR"]
                reader = other.page
                await page.click("#toggle")
                assert await state_is(page, "listening", "error") == "listening"
                await reader.wait_for_function(
                    "() => document.querySelector('#text').textContent.length > 10"
                )
                await shows(page, "#share-count", "1")
                await asyncio.to_thread(running.restart, signal.SIGKILL)
                await state_is(page, "listening")
                await shows(page, "#paragraphs", "tone")
                await shows(reader, "#text", "tone")
                await page.click("#toggle")
                assert await state_is(page, "stopped", "error") == "stopped"
                await reader.wait_for_selector("body[data-state=ended]")
                said = await page.locator("#paragraphs .paragraph p").all_text_contents()
                assert " ".join(await words(reader, "#text")) == " ".join(" ".join(said).split())
                # The overlay opens with the link as well, and no longer once that is over.
                arrived = asyncio.Event()

                async def late(route):
                    await arrived.wait()
                    await route.continue_()

                # Nothing can be chosen before it counts.
                await reader.route("**/languages/*.json", late)
                await reader.goto(overlay_link, wait_until="commit")
                await reader.wait_for_selector("html[inert] [name=size]")
                arrived.set()
                await reader.wait_for_selector("html:not([inert])")
                await reader.fill("[name=size]", "80")
                await reader.select_option("[name=position]", "top")
                address = await reader.input_value("#address")
                assert KEY not in address
                await reader.goto(address)
                await shows(reader, "#text", "tone")
                size = "getComputedStyle(document.querySelector('#frame')).fontSize"
                assert await reader.evaluate(size) == "80px"
                await page.click("#open-share")
                await page.click("#share-stop")
                await page.wait_for_selector("#share-none:not([hidden])")
                await page.click("#share-make")
                await page.wait_for_selector("#share-made:not([hidden])")
                assert await page.input_value("#share-url") != link
                await page.click("#share-stop")
                await page.wait_for_selector("#share-none:not([hidden])")
                await reader.wait_for_selector("#hint [data-when=closed]:not([hidden])")
                await reader.goto(link)
                await reader.wait_for_selector("body[data-state=invalid]")
            # What follows is another transcript, which the old link would not be for.
            name = "sessionStorage['voxlive-captions']"
            before = await page.evaluate(name)
            await page.click("#share-close")
            await page.click("#clear")
            assert await page.evaluate(name) != before
