"""Files on the page: chosen, dropped, cancelled, refused."""

import base64
import json
import re
from pathlib import Path

import pytest
from support.browser import browsing, state_is
from support.clips import clip

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# Where nothing is kept, what would be lost is asked about.
UNKEPT = {"keep": False}

DROP = """async ([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  const options = {dataTransfer: transfer, bubbles: true, cancelable: true};
  document.body.dispatchEvent(new DragEvent("dragover", options));
  const told = !document.querySelector("#drop").hidden;
  document.body.dispatchEvent(new DragEvent("drop", options));
  return told && document.querySelector("#drop").hidden;
}"""


def read_json(path):
    return json.loads(Path(path).read_text())


async def test_a_chosen_file_is_transcribed_and_copied(server):
    access = ["clipboard-read", "clipboard-write"]
    async with browsing(server.url, permissions=access) as watched:
        page = watched.page
        async with page.expect_file_chooser() as chooser:
            await page.click("#upload")
        await (await chooser.value).set_files(clip("market").path)
        await state_is(page, "uploading")
        assert await page.is_disabled("#toggle")
        assert await page.is_visible("#job-cancel")
        await state_is(page, "stopped")
        assert await page.is_hidden("#job")
        await page.click("#download-open")
        async with page.expect_download() as found:
            await page.click("[data-format=json]")
        file = await found.value
        assert file.suggested_filename == "market.json"
        value = read_json(await file.path())
        assert value["file"] == "market.flac"
        assert value["duration"] == pytest.approx(clip("market").duration, abs=0.01)
        paragraphs = await page.locator("#paragraphs .paragraph p").all_inner_texts()
        assert " ".join(paragraphs) == value["text"]
        spoken = re.findall(r"[a-z]+", clip("market").text.lower())
        found = re.findall(r"[a-z]+", value["text"].lower())
        assert len(set(spoken) & set(found)) > 0.7 * len(set(spoken))
        await page.click("#copy")
        await page.wait_for_function(
            "() => document.querySelector('#copy-text').textContent === 'Copied'"
        )
        assert await page.evaluate("navigator.clipboard.readText()") == f"{paragraphs[0]}\n"


@pytest.mark.endurance
async def test_a_dropped_file_replaces_the_text_after_a_question(server):
    async with browsing(server.url, settings=UNKEPT) as watched:
        page = watched.page
        for name in ("doctor", "train"):
            data = base64.b64encode(clip(name).path.read_bytes()).decode()
            assert await page.evaluate(DROP, [f"{name}.flac", data])
            if name == "train":
                assert "train.flac will take its place" in await page.inner_text("#confirm-text")
                await page.click("#confirm-yes")
            await state_is(page, "uploading")
            await state_is(page, "stopped")
        assert "doctor" not in (await page.inner_text("#paragraphs")).lower()
        assert "airport" in (await page.inner_text("#paragraphs")).lower()


@pytest.mark.endurance
async def test_leaving_with_unsaved_words_asks_first(server):
    async with browsing(server.url, settings=UNKEPT) as watched:
        page = watched.page
        await page.click("#open-settings")  # browsers ask only once the page has been used
        await page.keyboard.press("Escape")
        await page.set_input_files("#file", clip("doctor").path)
        await state_is(page, "stopped")
        async with page.expect_event("dialog") as asked:
            await page.close(run_before_unload=True)
        dialog = await asked.value
        assert dialog.type == "beforeunload"
        await dialog.dismiss()
        await page.click("#download-open")
        async with page.expect_download():
            await page.click("[data-format=txt]")
        async with page.expect_event("close"):
            await page.close(run_before_unload=True)


@pytest.mark.long
async def test_several_files_are_transcribed_one_after_the_other(server):
    async with browsing(server.url) as watched:
        page = watched.page
        await page.set_input_files("#file", [clip("yes").path, clip("doctor").path])
        await page.wait_for_function(
            "() => document.querySelector('#detail').textContent.includes('flac · file 2 of 2')"
        )
        await state_is(page, "stopped")
        assert "afternoon" in (await page.inner_text("#paragraphs")).lower()
        await page.keyboard.press("t")
        await page.wait_for_selector(".session")
        assert await page.locator(".session-title").all_inner_texts() == ["doctor", "yes"]


@pytest.mark.long
async def test_files_are_cancelled_refused_doubted_and_silent(server, tmp_path):
    whole = clip("market").path.read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "notes.txt").write_text("these are only words on paper")
    async with browsing(server.url) as watched:
        watched.expected = ["status of 400"]
        page = watched.page
        await page.set_input_files("#file", clip("minute").path)
        await state_is(page, "uploading")
        await page.click("#job-cancel")
        await state_is(page, "idle")
        assert await page.is_visible("#welcome")
        assert await page.is_hidden("#notice")
        assert await page.is_enabled("#toggle")

        await page.set_input_files("#file", tmp_path / "notes.txt")
        await page.wait_for_selector("#notice", state="visible")
        assert await page.inner_text("#notice-title") == "notes.txt was not transcribed"
        said = await page.inner_text("#notice-steps")
        assert "it is text" in said
        assert "audio or video file" in said
        await state_is(page, "idle")

        await page.set_input_files("#file", tmp_path / "cut.flac")
        await state_is(page, "stopped")
        assert await page.inner_text("#paragraphs .paragraph p")
        assert await page.inner_text("#notice-title") == (
            "cut.flac was transcribed, with a warning"
        )
        assert "The FLAC was cut off after" in await page.inner_text("#notice-steps")
        await page.click("#notice-close")
        assert await page.is_hidden("#notice")

        await page.set_input_files("#file", clip("silence").path)
        await page.wait_for_selector(".mark p")
        await state_is(page, "stopped")
        assert await page.inner_text(".mark p") == "No speech was found in silence.flac."
