"""Hearing and correcting a transcript: by pointer and keys, in this browser and at the server."""

import json
import shutil
from contextlib import asynccontextmanager
from itertools import pairwise

import httpx
import pytest
from docx import Document
from support.browser import WHERE, browsing, state_is
from support.clips import clip
from support.scoring import spelt
from support.server import AT_PAUSES, serving
from support.wire import live, s16le

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# The words that have a light.
LIT = """(name) => [...(CSS.highlights.get(name) ?? [])]
  .map((range) => range.startContainer.data.slice(range.startOffset, range.endOffset))"""


@pytest.fixture(scope="module")
def keeping(tmp_path_factory):
    """A server that keeps transcripts and the audio of all."""
    store = str(tmp_path_factory.mktemp("store"))
    with serving("--store", store, "--keep-audio", "all", *AT_PAUSES) as running:
        yield running


async def lit(page, name):
    return await page.evaluate(LIT, name)


async def lights(page, name, word):
    await page.wait_for_function(
        f"([name, word]) => ({LIT})(name).includes(word)", arg=[name, word]
    )


async def click(page, word, **how):
    await page.mouse.click(*await page.evaluate(WHERE, word), **how)


async def text(page):
    return await page.inner_text(".paragraph p")


async def shows(page, words):
    await page.wait_for_function(
        "(words) => document.querySelector('#paragraphs').textContent.includes(words)", arg=words
    )


async def committed(page, words):
    """Wait until words are no draft any more."""
    await page.wait_for_function(
        """(words) => [...document.querySelectorAll(".paragraph p")]
          .some((p) => p.firstChild.data?.includes(words))""",
        arg=words,
    )


async def saved(page, kind, folder):
    await page.click("#download-open")
    async with page.expect_download() as found:
        await page.click(f"[data-format={kind}]")
    return shutil.copy(await (await found.value).path(), folder / f"saved.{kind}")


@asynccontextmanager
async def opened_file(server, name):
    """A page that has transcribed a clip."""
    async with browsing(server.url, permissions=["clipboard-read", "clipboard-write"]) as watched:
        await watched.page.set_input_files("#file", clip(name).path)
        await state_is(watched.page, "uploading")
        await state_is(watched.page, "stopped")
        yield watched.page


async def test_words_are_heard_and_corrected_by_pointer_and_by_keys(server, tmp_path):
    async with opened_file(server, "doctor") as page:
        heard = await text(page)
        assert heard.endswith("about the results.")
        await click(page, "call")
        await lights(page, "playing", "call")
        await lights(page, "playing", "afternoon")
        assert await page.get_attribute("#player-toggle", "aria-label") == "Pause playback"
        await page.screenshot(path=tmp_path / "playing.png")
        await page.click("#player-toggle")

        # A double click corrects in place; hovering tells what was heard.
        await click(page, "about", click_count=2)
        field = page.locator(".correct-text")
        chosen = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
        assert await field.evaluate(chosen) == "about"
        await page.keyboard.type("concerning all")
        await page.screenshot(path=tmp_path / "correcting.png")
        await page.keyboard.press("Enter")
        await shows(page, "concerning all the results.")
        assert await lit(page, "corrected") == ["concerning all"]
        await page.mouse.move(*await page.evaluate(WHERE, "concerning"))
        await page.wait_for_selector("#heard", state="visible")
        assert await page.inner_text("#heard") == "Heard: “about”"
        await page.screenshot(path=tmp_path / "corrected.png")

        # By keys alone: the newest word, back to another one, heard, corrected, and taken back.
        await page.focus("#captions")
        await page.keyboard.press("Enter")
        assert await lit(page, "chosen") == ["results."]
        await page.keyboard.press("ArrowLeft")
        assert await page.text_content("#said") == "the"
        await page.keyboard.press("ArrowLeft")
        assert await page.text_content("#said") == "concerning all, corrected; heard: about"
        await page.keyboard.press("ArrowRight")
        assert await lit(page, "chosen") == ["the"]
        await page.keyboard.press("Space")
        await lights(page, "playing", "the")
        await page.keyboard.press("Enter")
        await page.keyboard.type("these")
        await page.keyboard.press("Enter")
        await shows(page, "concerning all these results.")
        await page.keyboard.press("Control+z")
        await shows(page, "concerning all the results.")
        await page.click("#undo-go")
        await shows(page, heard)
        assert await lit(page, "corrected") == []
        await page.focus("#captions")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Escape")
        assert await lit(page, "chosen") == []

        # Two words at a time, for what follows: files, the clipboard and the browser's store.
        await click(page, "doctor", click_count=2)
        await field.fill(heard.replace("doctor", "nurse").replace("results", "tests"))
        await page.keyboard.press("Enter")
        await shows(page, "nurse")
        now = await text(page)
        value = json.loads((await saved(page, "json", tmp_path)).read_text())
        words = value["segments"][0]["words"]
        changed = {word["heard"]: word["text"].strip() for word in words if "heard" in word}
        assert {key.strip("."): word.strip(".") for key, word in changed.items()} == {
            "doctor": "nurse",
            "results": "tests",
        }
        assert value["text"].strip() == now
        markdown = (await saved(page, "md", tmp_path)).read_text()
        assert markdown.startswith("# doctor\n\n- Began: 20")
        assert markdown.endswith(f"\n\n**0:00** {now}\n")
        document = Document(str(await saved(page, "docx", tmp_path)))
        assert document.paragraphs[0].text == "doctor"
        assert document.paragraphs[-1].text == f"0:00 {now}"
        await page.click("#download-open")
        await page.click("[data-format=timed]")
        await page.wait_for_function(
            "() => document.querySelector('#copy-text').textContent === 'Copied'"
        )
        assert await page.evaluate("navigator.clipboard.readText()") == f"0:00 {now}\n"
        await page.reload()
        await page.click("#open-sessions")
        await page.get_by_role("button", name="Open").click()
        await shows(page, now)
        await page.wait_for_function(f"() => ({LIT})('corrected').includes('nurse')")
        # Its file was another page's.
        assert not await page.evaluate("document.body.hasAttribute('data-audible')")


@pytest.mark.endurance
async def test_sound_that_the_browser_keeps_is_heard_from_any_word(server, tmp_path):
    spoken = clip("doctor")
    settings = {"keepSound": True, "unsure": True}
    wav = spoken.write_wav(tmp_path / "clip.wav")
    async with browsing(server.url, microphone=wav, settings=settings) as watched:
        page = watched.page
        await page.click("#toggle")
        assert await state_is(page, "listening", "error") == "listening"
        await committed(page, "about the results")
        await click(page, "about")
        await page.wait_for_function(
            "() => document.querySelector('#detail').textContent.includes('pause or stop')"
        )
        # No server stores it: those who read along get what is corrected all the same.
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            *_, one = (await client.get("/captions")).json()["sessions"]
            async with client.stream("GET", f"/captions/{one['session']}") as captions:
                lines = captions.aiter_lines()
                await anext(line async for line in lines if "doctor" in line)
                await click(page, "doctor", click_count=2)
                await page.keyboard.type("nurse")
                await page.keyboard.press("Enter")
                told = await anext(line async for line in lines if "nurse" in line)
                assert json.loads(told.removeprefix("data: "))["segment"] == 0
        await page.click("#toggle")
        assert await state_is(page, "stopped", "error") == "stopped"
        await page.reload()
        await page.click("#open-sessions")
        await page.get_by_role("button", name="Open").click()
        await page.wait_for_selector("body[data-audible]")
        await click(page, "about")
        await lights(page, "playing", "about")
        await lights(page, "playing", "results.")
        # What is kept is what was said, where it was said.
        rows, start = await page.evaluate(
            """async () => {
              const { BrowserStore } = await import("/static/store.js");
              const store = await BrowserStore.open();
              const [{ id }] = (await store.list("")).sessions;
              const rows = await store.audio(id, 0, 1e6);
              const { entries } = await store.read(id);
              return [rows.map(({ at, mulaw }) => [at, [...mulaw]]), entries[0].words[0].start];
            }"""
        )
        assert all(at + len(one) == other for (at, one), (other, _) in pairwise(rows))
        # Of mu-law, inverted, the low bits grow with the loudness.
        loud = [~byte & 127 for _, block in rows for byte in block]
        first = rows[0][0] + next(at for at, level in enumerate(loud) if level > 80)
        assert abs(first / 16_000 - start) < 0.4
        await page.keyboard.press("t")
        await page.get_by_role("button", name="Delete").click()
        await page.click("#confirm-yes")
        await page.wait_for_selector("#sessions-empty", state="visible")
        assert (
            await page.evaluate(
                """() => new Promise((done) => {
              const open = indexedDB.open("voxlive");
              open.onsuccess = () => {
                const all = open.result.transaction("audio").objectStore("audio").count();
                all.onsuccess = () => done(all.result);
              };
            })"""
            )
            == 0
        )


@pytest.mark.long
async def test_what_the_server_keeps_is_heard_corrected_and_recognised_again(keeping, tmp_path):
    spoken = clip("doctor")
    [ready] = (await live(keeping.ws, s16le(spoken.samples))).of("ready")
    path = f"/v1/sessions/{ready['session']}"
    async with (
        httpx.AsyncClient(base_url=keeping.url, timeout=60) as client,
        browsing(keeping.url) as watched,
    ):
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.click("#open-sessions")
        await page.get_by_role("button", name="Open").click()
        await shows(page, "doctor")
        heard = await text(page)
        await click(page, "afternoon")
        await lights(page, "playing", "afternoon")
        await click(page, "doctor", click_count=2)
        await page.keyboard.type("nurse")
        await page.keyboard.press("Enter")
        await page.wait_for_function("() => !document.querySelector('#layers').hidden")
        corrected = heard.replace("doctor", "nurse")
        await shows(page, corrected)

        async def stored(layer):
            return (await client.get(path, params={"layer": layer})).json()["text"]

        for _ in range(100):
            if await stored("best") == corrected:
                break
            await page.wait_for_timeout(50)
        assert (await stored("best"), await stored("live")) == (corrected, heard)
        await page.select_option("#layer", "live")
        await shows(page, heard)
        await page.select_option("#layer", "corrected")
        await shows(page, corrected)
        await page.screenshot(path=tmp_path / "layers.png")

        # A model for files recognises it again; what was corrected stays so.
        await page.click("#refine")
        await page.wait_for_function(
            "() => document.querySelector('#refine-state').textContent === 'recognised again'",
        )
        options = await page.locator("#layer option").all_inner_texts()
        assert options == ["Best", "As heard live", "As corrected", "Recognised again"]
        await shows(page, "nurse")
        await page.select_option("#layer", "refined")
        await page.wait_for_function(
            "() => !document.querySelector('#paragraphs').textContent.includes('nurse')"
        )
        assert spelt(await text(page))[-1] == "results"
