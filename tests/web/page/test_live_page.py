"""Speaking and reading along: the real page, the real server, a microphone that plays a clip."""

import asyncio
import json
import re
import signal
import wave
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from support.browser import browsing, heard, line_to, speaking, state_is, stopped
from support.clips import clip, late
from support.scoring import spelt
from support.server import AT_PAUSES, serving
from support.wire import START, dial, live, receive_until, send

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# Where nothing is kept, what would be lost is asked about.
UNKEPT = {"keep": False}
CLOCK = re.compile(r"^(\d+):(\d\d)\b")
SPOKEN = "document.querySelector('#paragraphs').textContent"


async def some_words(page, least=2):
    """Wait until words are on screen; how much sound had been taken by then, in seconds."""
    await page.wait_for_function(
        "least => document.querySelector('#paragraphs').innerText.split(/\\s+/).length > least",
        arg=least,
    )
    minutes, seconds = CLOCK.match(await page.inner_text("#detail")).groups()
    return int(minutes) * 60 + int(seconds)


async def download(page, kind):
    await page.click("#download-open")
    async with page.expect_download() as found:
        await page.click(f"[data-format={kind}]")
    file = await found.value
    assert re.fullmatch(rf"voxlive-\d{{4}}-\d\d-\d\d-\d{{4}}\.{kind}", file.suggested_filename)
    return read(await file.path())


def read(path):
    return Path(path).read_text()


async def test_words_come_while_one_speaks_and_the_files_hold_them(server, tmp_path):
    spoken = clip("pauses")
    # Seven seconds of its longest pause are left out: the microphone plays in real time.
    pcm = np.delete(spoken.pcm, slice(12 * spoken.rate, 19 * spoken.rate), axis=0)
    with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
        file.setparams((spoken.channels, 2, spoken.rate, len(pcm), "NONE", ""))
        file.writeframes(pcm.tobytes())
    starts = [one.start - 7 * (one.start > 19) for one in spoken.sentences]
    async with browsing(server.url, microphone=tmp_path / "clip.wav") as watched:
        page = watched.page
        await speaking(page)
        assert await some_words(page) < starts[-1]
        await heard(page, spoken.duration - 7)
        await stopped(page)
        paragraphs = await page.locator("#paragraphs .paragraph p").all_inner_texts()
        # The pauses are 0.6, 1.4, 2.9 and 3.4 s long: two of them part paragraphs.
        assert len(paragraphs) == 3
        times = await page.locator("#paragraphs time").all_inner_texts()
        assert [int(t.split(":")[1]) for t in times] == sorted(int(t.split(":")[1]) for t in times)
        assert await page.locator(".draft").count() == 0

        assert await download(page, "txt") == "\n\n".join(paragraphs) + "\n"
        value = json.loads(await download(page, "json"))
        assert value["model"] == server.health()["model"]
        assert value["text"].split() == " ".join(paragraphs).split()
        said = [word for segment in value["segments"] for word in segment["words"]]
        assert "".join(word["text"] for word in said) == value["text"]
        assert all(a["end"] <= b["start"] + 0.05 for a, b in pairwise(said))
        for first in starts:
            assert min(abs(word["start"] - first) for word in said) < 0.5, first
        for kind, point in (("srt", ","), ("vtt", ".")):
            text = await download(page, kind)
            cue = re.compile(rf"00:00:\d\d{re.escape(point)}\d{{3}} --> 00:00:\d\d")
            assert len(cue.findall(text)) >= 3
            assert set(spelt(" ".join(paragraphs))) <= set(spelt(text))
        assert text.startswith("WEBVTT\n")


# What readers of the session get, as it comes.
READ = """() => {
  window.read = [];
  const source = new EventSource("/captions/turns");
  for (const kind of ["segment", "corrected"]) {
    source.addEventListener(kind, ({ data }) => window.read.push(JSON.parse(data).text));
  }
  source.addEventListener("done", () => source.close());
}"""


@pytest.mark.endurance
async def test_names_of_speakers_and_own_words_reach_the_readers(server, tmp_path):
    wav = late("doctor", 5, tmp_path)
    async with browsing(server.url, microphone=wav, settings={"captions": "turns"}) as watched:
        page = watched.page
        await page.click("#open-settings")
        await page.fill("[name=terms]", "Dr. Ravensburger\n")
        await page.fill("[name=replacements]", "afternoon = evening\nnot a rule\nabout =\n")
        await page.fill("[name=speakers]", "Anna\nBen 2")
        await page.keyboard.press("Escape")
        await speaking(page)
        await page.evaluate(READ)
        await page.keyboard.press("2")
        await page.wait_for_function(f"() => {SPOKEN}.includes('evening')")
        await page.wait_for_function(
            "() => window.read.some((text) => text.includes('Ben 2: The'))"
        )
        await stopped(page)
        [said] = await page.locator("#paragraphs .paragraph p").all_inner_texts()
        assert said.startswith("Ben 2: The")
        assert "about" not in said
        assert (await page.evaluate("window.read.at(-1)")).strip() == said


@pytest.mark.long
async def test_the_tail_is_there_a_second_start_goes_on_and_clear_asks_first(server, tmp_path):
    spoken = clip("doctor")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    async with browsing(server.url, microphone=wav, settings=UNKEPT) as watched:
        page = watched.page
        await speaking(page)
        await heard(page, 4)  # the last word ends at 3.9 s
        await page.click("#toggle")
        assert await page.inner_text("#toggle-text") in ("Finishing…", "Start")
        assert await state_is(page, "stopped", "error") == "stopped"
        found = spelt(await page.inner_text("#paragraphs p"))
        assert found[-1] == spelt(spoken.text)[-1]
        assert "words in 0:0" in await page.inner_text("#detail")
        assert spelt(await page.text_content("#announcer")) == found
        assert await page.get_attribute("#announcer", "aria-live") == "polite"
        assert (await page.get_attribute("#paragraphs", "lang")).startswith("en")
        assert await page.locator("#paragraphs .paragraph").count() == 1

        await speaking(page)
        await heard(page, 4)
        await stopped(page)
        assert await page.locator("#paragraphs .paragraph").count() == 2
        mark = await page.inner_text(".mark p")
        assert mark.startswith("Started again at")
        times = await page.locator(".paragraph time").all_inner_texts()
        assert times[0] == "0:00"
        assert int(times[1].split(":")[1]) >= 4
        await page.click("#clear")
        await page.click("#confirm .secondary")
        assert await page.locator("#paragraphs .paragraph").count() == 2
        await page.click("#clear")
        assert "not been downloaded" in await page.inner_text("#confirm-text")
        await page.click("#confirm-yes")
        await state_is(page, "idle")
        assert await page.locator("#paragraphs *").count() == 0
        assert await page.is_visible("#welcome")
        assert await page.is_disabled("#clear")


async def spoken_through(page, spoken):
    """Record a clip to its end; the paragraphs on the page."""
    await heard(page, int(spoken.duration) + 1)
    await stopped(page)
    return await page.locator("#paragraphs .paragraph p").all_inner_texts()


# Keeps a copy of what the page captures, which is no more than once the same in two runs.
CAPTURED = """() => {
  window.captured = [];
  window.AudioWorkletNode = class extends AudioWorkletNode {
    constructor(...args) {
      super(...args);
      this.port.addEventListener("message", ({ data }) => window.captured.push([...data.pcm]));
    }
  };
}"""


@pytest.mark.endurance
async def test_cuts_in_mid_word_change_nothing_on_the_page(server, tmp_path):
    spoken = clip("market")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    async with (
        line_to(server.url) as line,
        browsing(line.url, microphone=wav) as watched,
    ):
        watched.expected = ["WebSocket connection", "Failed to load resource"]
        page = watched.page
        await page.evaluate(CAPTURED)
        await speaking(page)
        await some_words(page)
        shown = await page.evaluate(SPOKEN)
        for _ in range(4):
            line.cut()
            await state_is(page, "reconnecting")
            assert await page.inner_text("#status") == "Reconnecting… the recording goes on"
            detail = await page.inner_text("#detail")
            assert re.fullmatch(
                r"0:\d\d · The connection was lost · \d s of sound kept here", detail
            )
            assert len(spelt(await page.evaluate(SPOKEN))) >= len(spelt(shown)) > 1
            line.mend()
            await state_is(page, "listening")
            assert "connected again, nothing is lost" in await page.inner_text("#detail")
        await heard(page, int(spoken.duration) + 1)
        await stopped(page)
        pcm = np.array(await page.evaluate("window.captured.flat()"), "<i2").tobytes()
        assert len(pcm) > 2 * 16_000 * spoken.duration
        [done] = (await live(server.ws, pcm)).of("done")
        paragraphs = await page.locator("#paragraphs .paragraph p").all_inner_texts()
        assert " ".join(paragraphs) == done["text"].strip()
        assert await page.locator(".mark").count() == 0


@pytest.mark.endurance
@pytest.mark.parametrize("mends", [False, True])
async def test_stop_on_a_broken_line_waits_for_it_and_can_be_given_up(server, tmp_path, mends):
    spoken = clip("doctor")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    async with (
        line_to(server.url) as line,
        browsing(line.url, microphone=wav) as watched,
    ):
        watched.expected = ["WebSocket connection", "Failed to load resource", "net::ERR"]
        page = watched.page
        await speaking(page)
        await some_words(page)
        line.cut()
        await state_is(page, "reconnecting")
        await heard(page, int(spoken.duration) + 1)
        await page.click("#toggle")
        await state_is(page, "resending")
        assert await page.inner_text("#toggle-text") == "Give up"
        assert "s of sound kept here" in await page.inner_text("#detail")
        if mends:
            line.mend()
            assert await state_is(page, "stopped", "error") == "stopped"
            found = spelt(await page.inner_text("#paragraphs p"))
            assert found[-1] == spelt(spoken.text)[-1]
            assert await page.locator(".mark").count() == 0
        else:
            await page.click("#toggle")
            assert await state_is(page, "stopped", "error") == "error"
            marks = await page.locator(".mark p").all_inner_texts()
            assert re.search(r"Up to \d s of sound are missing here\.$", marks[-1])


@pytest.mark.long
async def test_recognition_that_is_interrupted_is_a_remark(tmp_path):
    wav = clip("doctor").write_wav(tmp_path / "clip.wav")
    with serving(*AT_PAUSES) as server:
        async with browsing(server.url, microphone=wav) as watched:
            watched.expected = ["status of 503"]  # /health, until the next engine is there
            page = watched.page
            await speaking(page)
            await some_words(page)
            children = psutil.Process(server.process.pid).children(recursive=True)
            [engine] = [c for c in children if "voxlive.engines.remote.child" in c.cmdline()]
            engine.kill()
            await page.wait_for_function(
                "() => document.querySelector('#detail').textContent.includes('was interrupted')"
            )
            assert await page.evaluate("document.body.dataset.state") == "listening"
            [text] = await spoken_through(page, clip("doctor"))
            assert spelt(text)[-1] == spelt(clip("doctor").text)[-1]
            assert await page.is_hidden("#notice")


@pytest.mark.endurance
async def test_a_server_that_ends_is_told_and_leaves_the_text(tmp_path):
    wav = clip("train").write_wav(tmp_path / "clip.wav")
    with serving() as server:
        async with browsing(server.url, microphone=wav) as watched:
            watched.expected = ["WebSocket connection", "Failed to load resource"]
            page = watched.page
            await speaking(page)
            await some_words(page, 6)  # drafts, of which the end may leave fewer
            server.process.send_signal(signal.SIGTERM)
            await state_is(page, "reconnecting")
            # Where its last words took longer than a page waits for an answer, that has left it.
            told = re.compile("· (The server was shut down|The connection was lost) ·")
            assert told.search(await page.inner_text("#detail"))
            text = spelt(await page.inner_text("#paragraphs .paragraph p"))
            assert len(text) > 2
            await page.click("#toggle")
            await state_is(page, "resending")
            await page.click("#toggle")
            await state_is(page, "error")
            assert await page.inner_text("#notice-title") == "The server was shut down"
            assert spelt(await page.inner_text("#paragraphs .paragraph p")) == text
            await page.wait_for_selector(".mark")


@pytest.mark.endurance
async def test_a_full_server_says_so_and_serves_when_there_is_a_place(small):
    async with browsing(small.url) as watched:
        page = watched.page
        async with dial(f"{small.ws}/v1/live") as socket:
            await send(socket, START)
            await receive_until(socket, "ready")
            await page.click("#toggle")
            await state_is(page, "error")
            title = await page.inner_text("#notice-title")
            assert title == "Every place on this server is taken"
        await page.wait_for_function(
            """async () => {
              const health = await (await fetch("/health")).json();
              return health.in_use === 0;
            }""",
            polling=200,
        )
        await speaking(page)
        assert await page.is_hidden("#notice")


async def test_an_unreachable_server_is_told(server):
    async with (
        line_to(server.url) as line,
        browsing(line.url) as watched,
    ):
        watched.expected = ["WebSocket connection", "Failed to load resource", "net::ERR"]
        line.cut()
        await watched.page.click("#toggle")
        await state_is(watched.page, "error")
        title = await watched.page.inner_text("#notice-title")
        assert title == "The server cannot be reached"


@pytest.mark.endurance
async def test_the_source_can_be_changed_the_screen_stays_on_and_nothing_is_said_to_be_kept(server):
    async with browsing(server.url, whole=True) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert not await page.is_visible("#keeping")
        await page.click("#open-settings")
        assert not await page.is_visible("#store-row")
        await page.keyboard.press("Escape")
        await page.evaluate(
            """() => {
              const request = navigator.wakeLock.request.bind(navigator.wakeLock);
              window.locks = [];
              navigator.wakeLock.request = async (kind) => {
                const lock = await request(kind);
                window.locks.push(lock);
                return lock;
              };
            }"""
        )
        await speaking(page)
        await page.wait_for_function("() => window.locks.length === 1")
        assert not await page.evaluate("locks[0].released")
        options = page.locator("#source option", has_text="Fake Audio Input 2")
        await page.select_option("#source", await options.get_attribute("value"))
        before = await page.inner_text("#detail")
        await heard(page, int(before.split()[0].split(":")[1]) + 2)
        assert await page.is_hidden("#notice")
        await page.click("#toggle")
        await state_is(page, "idle", "stopped")
        await page.wait_for_function("() => window.locks[0].released")
        # Shared sound is a source as well.
        await page.select_option("#source", "display")
        await speaking(page)
        await heard(page, 1)
        await page.click("#toggle")
        await state_is(page, "idle", "stopped")


def tone(folder, amplitude):
    """Ten seconds of 200 Hz as a WAV."""
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        samples = np.sin(2 * np.pi * 200 * np.arange(16_000 * 10) / 16_000)
        file.writeframes((amplitude * samples * 32767).astype("<i2").tobytes())
    return folder / "tone.wav"


@pytest.mark.endurance
async def test_where_nothing_was_heard_stop_says_what_to_check(server, tmp_path):
    async with browsing(server.url, microphone=tone(tmp_path, 0.005)) as watched:
        page = watched.page
        await speaking(page)
        await heard(page, 2)
        await page.click("#toggle")
        await page.wait_for_selector("#notice[role=alert]", state="visible")
        title = await page.inner_text("#notice-title")
        assert title == "Nothing was heard: the sound was very quiet"
        assert "raise its level" in await page.inner_text("#notice-steps")
        assert await state_is(page, "idle") == "idle"

        await speaking(page)
        assert await page.is_hidden("#notice")
        await page.keyboard.press("u")
        await heard(page, 6)
        await page.click("#toggle")
        await page.wait_for_selector("#notice", state="visible")
        title = await page.inner_text("#notice-title")
        assert title == "Nothing was heard: the microphone was muted here"


@pytest.mark.long
async def test_a_clipping_microphone_is_told(server, tmp_path):
    async with browsing(server.url, microphone=tone(tmp_path, 1)) as watched:
        page = watched.page
        await speaking(page)
        await page.wait_for_selector("#clip", state="visible")
        filled = "new DOMMatrix(document.querySelector('#meter-fill').style.transform).a"
        assert await page.evaluate(filled) > 0.95
        await heard(page, 2)
        await page.click("#toggle")
        await page.wait_for_selector("#notice", state="visible")
        title = await page.inner_text("#notice-title")
        assert title == "Nothing was heard: there was sound, but no speech was found in it"
        assert await page.is_hidden("#clip")
        assert await page.evaluate(filled) == 0


# A part of the page that comes 2 s late, as on a bad line.
LATE = """() => {
  const { addModule } = AudioWorklet.prototype;
  AudioWorklet.prototype.addModule = async function (url) {
    await new Promise((done) => setTimeout(done, 2000));
    return addModule.call(this, url);
  };
}"""


@pytest.mark.long
@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=pytest.mark.endurance)])
async def test_a_server_that_keeps_transcripts_says_so_and_one_may_leave_ones_own_out(
    tmp_path, kept
):
    spoken = clip("yes")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    folder = tmp_path / "store"
    with serving("--store", str(folder), "--keep", "7d", *AT_PAUSES) as server:
        async with browsing(server.url, microphone=wav) as watched:
            page = watched.page
            await page.wait_for_selector("#keeping")
            assert "keeps transcripts for 7 days" in await page.inner_text("#keeping")
            await page.click("#open-settings")
            assert str(folder) in await page.inner_text("#store-place")
            assert await page.is_checked("input[name=store]")
            if not kept:
                await page.uncheck("input[name=store]")
                assert "yours are left out" in await page.text_content("#keeping")
            await page.click("#settings button[value=done]")
            # However late the page's parts come, none of what is said is lost for that.
            await page.evaluate(LATE)
            await speaking(page)
            await heard(page, spoken.duration)
            await stopped(page)
            assert "Yes" in await page.inner_text("#paragraphs")
        async with httpx.AsyncClient(base_url=server.url) as client:
            while True:  # words may be sent before they are stored
                sessions = (await client.get("/v1/sessions")).json()["sessions"]
                if not kept or any(one["preview"] for one in sessions):
                    break
                await asyncio.sleep(0.05)
        # The browser plays the clip again and again.
        assert [one["preview"].split()[0] for one in sessions] == ["Yes."] * kept
