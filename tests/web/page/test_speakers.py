"""Who speaks, as the reading page and the overlay show it."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from support.browser import browsing, shows, speaking, stopped, without_the_page
from support.clips import two_people, write_wav
from support.server import AT_PAUSES, serving
from support.wire import s16le

from voxlive.web.profiles import VARIABLE

KEY = base64.b64encode(bytes(32)).decode()
DASH = "\u2013"

_READ = """async () => {
  const { CaptionText } = await import('/static/captions.js');
  const root = document.createElement('div');
  const text = new CaptionText(root);
  const paragraphs = () => [...root.querySelectorAll('p')].map((one) => one.textContent);
  const said = [];
  const word = (start, end) => [{ start, end }];
  text.append(0, ' Hello there.', '', word(0, 2));
  said.push(paragraphs());
  text.label(0, [{ speaker: 0, text: ' Hello there.' }]);
  text.append(0, ' Hi you.', '', word(2, 3));
  text.draft(' And', '');
  said.push(paragraphs());
  text.label(0, [{ speaker: 0, text: ' Hello there.' }, { speaker: 1, text: ' Hi you.' }]);
  text.put({ id: 0, text: ' Hello there. Hi you.', start: 0, end: 3, parts: [
    { speaker: 0, text: ' Hello there.' }, { speaker: 1, text: ' Hi you.' }] });
  text.append(1, ' Bye.', '', word(4, 5));
  text.label(1, [{ speaker: 0, text: ' Bye.' }]);
  said.push(paragraphs());
  text.names.set('', 1, 'Anna');
  text.rename();
  text.draft(' And', '');
  // It was the other one, all the time, and what follows moves with it.
  text.label(0, [{ speaker: 1, text: ' Hello there. Hi you.' }]);
  said.push(paragraphs());
  text.put({ id: 0, text: ' Hello where. Hi you.' });
  text.label(0, [{ speaker: 1, text: ' Hello where. Hi you.' }]);
  said.push(paragraphs());
  return said;
}"""

_OVERLAY = """async (names) => {
  const { OverlayText } = await import('/static/overlaylook.js');
  const root = document.createElement('p');
  const text = new OverlayText(root, new URLSearchParams(`fade=0&names=${names}`));
  const said = [];
  const take = (kind, data) => {
    text.take(kind, data);
    said.push(root.textContent);
  };
  const both = [{ speaker: 0, text: ' Hello there.' }, { speaker: 1, text: ' Hi you.' }];
  text.take('words', { segment: 0, text: ' Hello there.' });
  text.take('speakers', { segment: 0, parts: both.slice(0, 1) });
  take('words', { segment: 0, text: ' Hi you.' });
  take('speakers', { segment: 0, parts: both });
  take('named', { speaker: 1, name: 'Anna' });
  take('words', { segment: 1, text: ' Bye.' });
  const segments = [{ id: 0, text: ' Hello there. Hi you.', parts: both }];
  take('snapshot', { segments, open: [], draft: ' and', speakers: [{ speaker: 0, name: 'Tom' }] });
  return said;
}"""


async def test_readers_see_who_speaks(server):
    async with without_the_page(server.url) as watched:
        said = await watched.page.evaluate(_READ)
        assert said == [
            [" Hello there."],
            ["Speaker 1 Hello there. Hi you. And"],
            ["Speaker 1 Hello there.", "Speaker 2 Hi you.", "Speaker 1 Bye."],
            ["Anna Hello there. Hi you.", "Speaker 1 Bye. And"],
            ["Anna Hello where. Hi you.", "Speaker 1 Bye. And"],
        ]
        assert await watched.page.evaluate(_OVERLAY, "0") == [
            "Hello there. Hi you.",
            f"Hello there. {DASH} Hi you.",
            f"Hello there. {DASH} Hi you.",
            f"Hello there. {DASH} Hi you. Bye.",
            f"Hello there. {DASH} Hi you. and",
        ]
        assert await watched.page.evaluate(_OVERLAY, "1") == [
            "Speaker 1: Hello there. Hi you.",
            f"Speaker 1: Hello there. {DASH} Speaker 2: Hi you.",
            f"Speaker 1: Hello there. {DASH} Anna: Hi you.",
            f"Speaker 1: Hello there. {DASH} Anna: Hi you. Bye.",
            f"Tom: Hello there. {DASH} Speaker 2: Hi you. and",
        ]


_TRANSCRIPT = """async () => {
  const { Transcript } = await import('/static/transcript.js');
  const { FORMATS } = await import('/static/exports.js');
  const word = (text, start) => ({ text, start, end: start + 0.5, p: null });
  const transcript = new Transcript();
  const label = (key, first, last, speaker) => {
    const number = transcript.voices.number(key, '', speaker);
    transcript.label({ key, first, last, speaker: number });
  };
  const said = [];
  const show = () => said.push(transcript.items.map(({ who, text }) => `${who}: ${text}`));
  transcript.words('a/0', [word('Hello', 0), word(' there.', 0.5)]);
  label('a/0', 0, 1, 0);
  transcript.words('a/0', [word(' Hi', 1), word(' you.', 1.5)]);
  show();
  label('a/0', 2, 3, 1);
  transcript.words('a/1', [word(' Bye.', 2)]);
  label('a/1', 0, 0, 0);
  show();
  transcript.name({ source: '', speaker: 1, name: 'Anna <A>' });
  transcript.correct({ key: 'a/0', first: 3, stop: 4, text: 'all.', made: '' });
  // Another session knows none of these voices.
  transcript.words('b/0', [word(' Again.', 3)]);
  label('b/0', 0, 0, 0);
  show();
  said.push([JSON.stringify(transcript.voices.placeOf('', 2))]);
  const again = Transcript.of(JSON.parse(JSON.stringify(transcript.entries)), {});
  said.push(again.items.map(({ who, text }) => `${who}: ${text}`));
  const files = ['txt', 'srt', 'vtt', 'md', 'json'];
  return [said, Object.fromEntries(files.map((name) => [name, FORMATS[name].write(again, 'T')]))];
}"""


async def test_the_transcript_parts_where_somebody_else_speaks(server):
    async with without_the_page(server.url) as watched:
        said, files = await watched.page.evaluate(_TRANSCRIPT)
    whole = ["Speaker 1: Hello there.", "Anna <A>: Hi all.", "Speaker 1: Bye.", "Speaker 3: Again."]
    assert said == [
        ["Speaker 1: Hello there. Hi you."],
        ["Speaker 1: Hello there.", "Speaker 2: Hi you.", "Speaker 1: Bye."],
        whole,
        ['{"session":"b","speaker":0}'],
        whole,
    ]
    assert files["txt"] == "\n\n".join(whole) + "\n"
    assert "<v Anna &lt;A&gt;>Hi all." in files["vtt"]
    assert "\nAnna <A>: Hi all." in files["srt"]
    assert "Anna &lt;A&gt;** Hi all." in files["md"]
    segments = json.loads(files["json"])["segments"]
    assert [one["speaker"] for one in segments] == [line.split(": ")[0] for line in whole]


@pytest.mark.endurance
async def test_a_session_on_the_page_tells_voices_apart_and_names_them(server, tmp_path):
    wav = write_wav(tmp_path / "two.wav", s16le(two_people()))
    settings = {"diarize": True, "speakers": "Anna\nBen"}
    async with browsing(server.url, microphone=wav, settings=settings) as watched:
        page = watched.page
        await speaking(page)
        names = "[...document.querySelectorAll('button.who')].map((one) => one.textContent).join()"
        await page.wait_for_function(f"() => {names} === 'Speaker 1,Speaker 2,Speaker 1'")
        await page.keyboard.press("2")  # whoever speaks now is the second one of the settings
        await page.wait_for_function(f"() => {names} === 'Ben,Speaker 2,Ben'")
        await page.click("button.who >> nth=1")
        await page.keyboard.type("Ms Jones, 2 b")  # which are keys of the page elsewhere
        await page.keyboard.press("Enter")
        await page.wait_for_function(f"() => {names} === 'Ben,Ms Jones, 2 b,Ben'")
        assert await page.evaluate("document.activeElement.className") == "who"
        await page.click("button.who >> nth=0")
        await page.keyboard.press("Escape")
        await stopped(page)
        assert await page.evaluate(names) == "Ben,Ms Jones, 2 b,Ben"


@pytest.mark.long
async def test_a_voice_that_agrees_is_remembered_known_and_deleted(tmp_path):
    wav = write_wav(tmp_path / "two.wav", s16le(two_people()))
    settings = {"diarize": True, "profiles": True}
    names = "[...document.querySelectorAll('button.who')].map((one) => one.textContent).join()"
    store = ("--store", str(tmp_path / "store"))
    with serving(*store, *AT_PAUSES, env={VARIABLE: KEY}) as running:
        async with browsing(running.url, microphone=wav, settings=settings) as watched:
            page = watched.page
            await speaking(page)
            await page.wait_for_function(f"() => {names} === 'Speaker 1,Speaker 2,Speaker 1'")
            # Without the choice a name is a name.
            await page.click("button.who >> nth=1")
            await page.keyboard.type("Ben")
            await page.keyboard.press("Enter")
            await page.click("button.who >> nth=0")
            await page.keyboard.type("Anna")
            await page.click(".naming .check span")
            assert await page.is_checked(".naming [type=checkbox]")
            await page.screenshot(path=tmp_path / "naming.png")
            await page.click("#detail")  # leaving the field takes it
            await shows(page, "#detail", "The voice of Anna is remembered")
            await stopped(page)
            await page.click("#clear")
            await speaking(page)
            await page.wait_for_function(f"() => {names}.startsWith('Anna,Speaker 2')")
            await stopped(page)
            await page.click("#open-settings")
            await shows(page, "#profiles li", "Anna")
            await page.locator("#profiles").scroll_into_view_if_needed()
            await page.screenshot(path=tmp_path / "profiles.png")
            await page.get_by_role("button", name="Delete: Anna").click()
            await page.click("#confirm-yes")
            await page.wait_for_selector("#profiles:empty", state="attached")
            assert "Anna" in await page.evaluate(names)
        async with httpx.AsyncClient(base_url=running.url) as client:
            found = (await client.get("/v1/sessions")).json()["sessions"]
            newest = (await client.get(f"/v1/sessions/{found[0]['id']}")).json()
        [named] = newest["speakers"]
        assert (named["speaker"], named["name"]) == (0, "Anna")
