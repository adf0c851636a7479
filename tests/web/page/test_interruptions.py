"""Nothing that was said is lost: reloads, other tabs, a dead server; the list of transcripts."""

import re
import signal
from pathlib import Path

import httpx
import pytest
from support.browser import browsing, heard, line_to, reload, speaking, state_is
from support.clips import clip
from support.scoring import spelt
from support.server import AT_PAUSES, serving

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

BROKEN = ["WebSocket connection", "Failed to load resource", "net::ERR"]
# Connections that never open: the line is down, the page can still be loaded.
DOWN = """() => {
  window.WebSocket = class extends EventTarget {
    readyState = 0;
    bufferedAmount = 0;
    static OPEN = 1;
    send() {}
    close() {}
  };
}"""


@pytest.fixture(scope="module")
def keeping(tmp_path_factory):
    """A server that keeps transcripts."""
    with serving("--store", str(tmp_path_factory.mktemp("store")), *AT_PAUSES) as running:
        yield running


def read(path):
    return Path(path).read_text().lower()


async def committed(page, least):
    """The page's text without its draft, once it has so many words."""
    found = await page.wait_for_function(
        """(least) => {
          const said = (p) => [...p.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data);
          const words = [...document.querySelectorAll(".paragraph p")]
            .map((p) => said(p).join("")).join(" ").split(/\\s+/).filter(Boolean);
          return words.length >= least && words.join(" ");
        }""",
        arg=least,
    )
    return await found.json_value()


async def painted(page):
    """Until the transcript that was opened has been painted: before that it has no inner text."""
    await page.wait_for_function("() => document.querySelector('.paragraph p')?.innerText")


async def ended(page):
    await page.click("#toggle")
    assert await state_is(page, "stopped", "error") == "stopped"
    return await page.locator(".paragraph p").all_inner_texts()


@pytest.mark.long
async def test_a_reload_in_mid_session_loses_no_word_and_brings_none_twice(keeping, tmp_path):
    wav = clip("market").write_wav(tmp_path / "clip.wav")
    async with browsing(keeping.url, microphone=wav) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await speaking(page)
        before = await committed(page, 3)
        await reload(page)
        await page.wait_for_selector("#continue", state="visible")
        assert spelt(before)[0] in spelt(await page.inner_text("#continue-text"))
        assert "Interrupted" in await page.inner_text("#continue-when")
        await page.click("#continue-go")
        assert await state_is(page, "listening", "error") == "listening"
        await page.wait_for_function("() => document.title.startsWith('●')")
        at = await page.locator("time").first.inner_text()
        assert at.startswith("0:0")
        await heard(page, 9)
        await page.keyboard.press("m")
        minutes, s = (await page.inner_text("#detail")).split(" ")[0].split(":")
        shown = await ended(page)
        marks = await page.locator(".mark p").all_inner_texts()
        assert re.match(r"Continued at .+: nothing was recorded for \d+ s before$", marks[0])
        assert marks[1:] == ["Marked"]
        # It was one session at the server, which has the same words and the mark.
        async with httpx.AsyncClient(base_url=keeping.url) as client:
            [one] = (await client.get("/v1/sessions")).json()["sessions"]
            found = (await client.get(f"/v1/sessions/{one['id']}")).json()
            metrics = (await client.get("/metrics")).text
        assert " ".join(shown) == " ".join(found["text"].split())
        [mark] = [mark for mark in found["marks"] if mark["text"] == "Marked"]
        assert 8 < mark["at"] < int(minutes) * 60 + int(s) + 2
        # What the server has is listed once, and not kept here as well; unless words were sent
        # before they were stored, which it says, and the page trusts itself alone then.
        late = float(re.search(r'store_operations_total{outcome="late"} (\S+)', metrics)[1])
        await page.keyboard.press("t")
        await page.wait_for_selector(".session")
        assert await page.locator(".session").count() == 1
        place = "in this browser" if late else "on the server"
        assert place in await page.inner_text(".session-facts")
        await page.keyboard.press("Escape")
        await page.click("#clear")
        await state_is(page, "idle")
        await page.reload()
        await page.click("#open-sessions")
        await page.get_by_role("button", name="Open").click()
        await state_is(page, "stopped")
        await painted(page)
        opened = await page.locator(".paragraph p").all_inner_texts()
        assert " ".join(opened) == " ".join(shown)


@pytest.mark.endurance
async def test_sound_of_an_outage_outlives_the_page(server, tmp_path):
    spoken = clip("doctor")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    async with (
        line_to(server.url) as line,
        browsing(line.url, microphone=wav) as watched,
    ):
        watched.expected = BROKEN
        page = watched.page
        await speaking(page)
        await heard(page, 1)
        await page.evaluate(DOWN)
        line.cut()
        await state_is(page, "reconnecting")
        line.mend()
        await heard(page, int(spoken.duration) + 2)
        assert re.search(r"\d s of sound kept here", await page.inner_text("#detail"))
        await page.wait_for_timeout(1200)  # the journal writes once a second
        await reload(page)
        await page.wait_for_selector("#continue", state="visible")
        assert "s of sound wait to be recognised" in await page.inner_text("#continue-when")
        # Reading it first changes nothing: Start goes on with it.
        await page.click("#continue-open")
        await state_is(page, "stopped")
        await page.click("#toggle")
        assert await state_is(page, "listening", "error") == "listening"
        await heard(page, int(spoken.duration) + 4)
        shown = spelt(" ".join(await ended(page)))
        # The words before, in and at the end of the outage, in order; behind them the clip again.
        at = [shown.index(word) for word in ("doctor", "call", "afternoon", "results")]
        assert at == sorted(at)
        marks = await page.locator(".mark p").all_inner_texts()
        assert [mark.split()[0] for mark in marks] == ["Continued"]


@pytest.mark.endurance
async def test_another_tab_goes_on_with_the_session(server, tmp_path):
    wav = clip("market").write_wav(tmp_path / "clip.wav")
    async with browsing(server.url, microphone=wav) as watched:
        page = watched.page
        await speaking(page)
        before = await committed(page, 3)
        other = await page.context.new_page()
        await other.goto(server.url)
        await other.wait_for_selector('#engine[data-health="ok"]')
        assert await other.is_hidden("#continue")  # it is not interrupted
        await other.click("#open-sessions")
        assert "live in another tab" in await other.inner_text(".session-facts")
        await other.get_by_role("button", name="Continue here").click()
        assert await state_is(other, "listening", "error") == "listening"
        await state_is(page, "stopped")
        assert "goes on in another tab" in await page.inner_text("#notice-title")
        after = await committed(other, 3)
        assert after.startswith(before)
        await heard(other, 8)
        assert len(" ".join(await ended(other))) >= len(after)


@pytest.mark.long
async def test_a_server_that_hangs_is_seen_and_what_was_said_comes_later(tmp_path, paused):
    spoken = clip("doctor")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    with serving(*AT_PAUSES) as server:
        async with browsing(server.url, microphone=wav) as watched:
            watched.expected = BROKEN
            page = watched.page
            await speaking(page)
            await heard(page, 1)
            paused(server.process.pid)
            await page.wait_for_function(
                "() => /no answer for [5-9] s/.test(document.querySelector('#detail').textContent)"
            )
            assert await page.evaluate("document.body.dataset.state") == "listening"
            assert await page.evaluate("document.body.hasAttribute('data-late')")
            await state_is(page, "reconnecting")
            await page.wait_for_function(
                "() => document.querySelector('#detail').textContent.includes('does not answer')"
            )
            detail = await page.inner_text("#detail")
            assert re.search(r"The server does not answer · \d+ s of sound kept here", detail)
            assert "Reconnecting" in await page.title()
            server.process.send_signal(signal.SIGCONT)
            await state_is(page, "listening")
            await page.wait_for_function(
                "() => document.querySelector('#detail').textContent.includes('caught up')"
            )
            assert not await page.evaluate("document.body.hasAttribute('data-late')")
            shown = spelt(" ".join(await ended(page)))
            assert shown == spelt(" ".join(shown))
            assert shown[-1] == spelt(spoken.text)[-1]
            assert await page.locator(".mark").count() == 0


@pytest.mark.endurance
async def test_a_line_that_breaks_again_and_again_leaves_no_mark(tmp_path):
    """Without resumable sessions each connection is a new one; nothing was said that is missing."""
    wav = clip("silence").write_wav(tmp_path / "clip.wav")
    with serving("--resume-seconds", "0", *AT_PAUSES) as server:
        async with (
            line_to(server.url) as line,
            browsing(line.url, microphone=wav) as watched,
        ):
            watched.expected = BROKEN
            page = watched.page
            await speaking(page)
            for _ in range(2):
                line.cut()
                await state_is(page, "reconnecting")
                line.mend()
                await state_is(page, "listening")
            await page.click("#toggle")
            await state_is(page, "idle", "stopped")
            assert await page.locator(".mark").count() == 0


@pytest.mark.long
async def test_transcripts_are_found_renamed_downloaded_and_deleted(server):
    async with browsing(server.url) as watched:
        page = watched.page
        for name in ("doctor", "phone"):
            await page.set_input_files("#file", clip(name).path)
            await state_is(page, "uploading")
            await state_is(page, "stopped")
        # It is kept: the page may be left, and another one take its place, without a question.
        await page.reload()
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.keyboard.press("t")
        await page.wait_for_selector(".session")
        titles = await page.locator(".session-title").all_inner_texts()
        assert titles == ["phone", "doctor"]
        facts = await page.locator(".session-facts").all_inner_texts()
        assert all("in this browser" in one for one in facts)
        assert re.search(r"\d:\d\d · \d+ words", facts[0])
        await page.fill("#sessions-search", "afternoon")
        await page.wait_for_function("() => document.querySelectorAll('.session').length === 1")
        assert "afternoon" in (await page.inner_text(".session-text")).lower()
        await page.fill("#sessions-search", "nobody has this word")
        await page.wait_for_selector("#sessions-empty", state="visible")
        assert await page.inner_text("#sessions-empty") == "No transcript has these words."
        await page.fill("#sessions-search", "")
        await page.wait_for_function("() => document.querySelectorAll('.session').length === 2")

        await page.get_by_role("button", name="Rename: doctor").click()
        await page.keyboard.type("At the doctor's")
        await page.keyboard.press("Enter")
        await page.wait_for_function(
            "() => document.querySelectorAll('.session-title')[1]?.textContent.startsWith('At')"
        )
        async with page.expect_download() as found:
            await page.locator(".session select").nth(1).select_option("txt")
        file = await found.value
        assert file.suggested_filename == "At the doctor's.txt"
        assert "afternoon" in read(await file.path())

        await page.get_by_role("button", name="Delete: phone").click()
        await page.click("#confirm-yes")
        await page.wait_for_function("() => document.querySelectorAll('.session').length === 1")
        await page.get_by_role("button", name="Open").click()
        await state_is(page, "stopped")
        await painted(page)
        assert "afternoon" in (await page.inner_text("#paragraphs")).lower()
        await page.reload()
        await page.click("#open-sessions")
        await page.wait_for_selector(".session")
        assert await page.locator(".session-title").all_inner_texts() == ["At the doctor's"]
