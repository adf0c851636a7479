"""The page's transcript, subtitles, exports and captions: its modules, driven in the browser."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from support.browser import browsing, without_the_page
from support.timed import timed_segment, timed_word

from voxlive.runners.outputs import subtitles
from voxlive.values import Segment

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script> & "--> end"'

GOLDEN = Path(__file__).parents[2] / "golden" / "subtitles.json"

PIECES = (
    *("a", "the", "bought", "apples,", "market.", "don't", "extraordinarily", "(yes)", "no?", " "),
    *("well;", "—", "twenty-three", "“Quoted.”", "日本語", "字", "😀", "<b>", "a --> b", "x" * 50),
)

MODULES = ("transcript", "subtitles", "exports", "view", "upload", "kept")


async def evaluate(page, body, given=None):
    """Run the body of a JavaScript function, with the page's modules in `modules`."""
    imports = ", ".join(f'await import("/static/{name}.js")' for name in MODULES)
    script = f"async (given) => {{ const modules = Object.assign({{}}, {imports}); {body} }}"
    return await page.evaluate(script, given)


async def run(server, body, given=None):
    async with without_the_page(server.url) as watched:
        return await evaluate(watched.page, body, given)


def word(text, start, end, p=None):
    return {"text": text, "start": start, "end": end, "p": p}


def spoken(text, start=0.0, each=0.4):
    """Words of equal length without a pause between them."""
    found = re.findall(r"\s*\S+", text)
    return [word(w, start + i * each, start + (i + 1) * each) for i, w in enumerate(found)]


async def test_pauses_are_paragraphs_and_drafts_follow_the_words(server):
    shown = await run(
        server,
        """
        const { Transcript } = modules;
        const t = new Transcript();
        const seen = [];
        const texts = () => t.items.map((item) => item.text);
        const note = () => seen.push([texts(), t.draft?.text ?? null, t.draft?.apart]);
        t.speechStarted(0.2);
        t.drafted("a/0", "one tow"); note();
        t.words("a/0", [{text: "One", start: 0.3, end: 0.5, p: null}]);
        t.drafted("a/0", " two three"); note();
        t.words("a/0", [{text: " two", start: 0.6, end: 0.9, p: null}]); note();
        t.words("a/1", [{text: " four", start: 1.9, end: 2.2, p: 0.5}]); note();
        t.speechStarted(4.0);
        t.drafted("a/2", " five"); note();
        t.words("a/2", [{text: " Five.", start: 4.1, end: 4.5, p: 1}]); note();
        return {seen, text: t.text, count: t.wordCount, segments: t.segments.length};
        """,
    )
    assert shown["seen"] == [
        [[], "one tow", True],
        [["One"], " two three", False],
        [["One two"], " three", False],
        [["One two four"], " three", False],
        [["One two four"], " five", True],
        [["One two four", "Five."], None, None],
    ]
    assert shown["text"] == "One two four Five."
    assert (shown["count"], shown["segments"]) == (4, 3)


async def test_a_draft_begins_where_the_engine_is_and_outlives_a_mark(server):
    shown = await run(
        server,
        """
        const t = new modules.Transcript();
        t.words("a/0", [{text: "One", start: 0.3, end: 0.5, p: null}]);
        t.speechStarted(4.0);
        t.speechStarted(9.0);
        t.drafted("a/1", " two", 5.0);
        const late = t.draft.start;
        t.drafted("a/1", " two", 11.0);
        const now = t.draft.start;
        t.words("a/1", [{text: " two", start: 4.2, end: 9.5, p: null}]);
        t.drafted("a/2", " three", 11.0);
        const before = t.draft.apart;
        t.mark(10, "lost");
        const after = t.draft.apart;
        t.words("a/2", [{text: " thr", start: 9.6, end: 9.9, p: null}]);
        const placed = t.items.map((item) => item.text);
        t.drafted("a/2", " three", 11.0);
        t.keepDrafts((text) => `not confirmed: ${text}`);
        const last = t.items.at(-1).text;
        return {late, now, before, after, placed, draft: t.draft, last};
        """,
    )
    assert (shown["late"], shown["now"]) == (4.0, 9.0)
    # A mark does not part a draft from the words that it follows: they were spoken before it.
    assert (shown["before"], shown["after"]) == (False, False)
    assert shown["placed"] == ["One", "two thr", "lost"]
    assert shown["draft"] is None
    assert shown["last"] == "not confirmed: three"


async def test_subtitles_are_readable(server):
    sentences = (
        "The train to the airport leaves in fifteen minutes, and the platform has been changed. "
        "Yes. We bought apples, bread and a bottle of milk at the market because it was raining "
        "all morning and nobody wanted to walk all the way to the larger one by the river today."
    )
    segments = [
        {"words": spoken(sentences, 0.5, 0.35)},
        {"words": [word(" No.", 30.0, 30.1)]},
        {"words": spoken(" Come in, please.", 30.4, 0.2)},
        {"words": spoken("".join(f" 中文字幕{i}" for i in range(12)), 40.0, 0.6)},
    ]
    cues = await run(server, "return modules.cues(given)", segments)
    words = [w for segment in segments for w in segment["words"]]
    shown = "".join(line.replace(" ", "") for cue in cues for line in cue["lines"])
    assert shown == "".join(w["text"].replace(" ", "") for w in words)
    starts = {round(w["start"] * 1000) for w in words}
    for cue in cues:
        assert 1 <= len(cue["lines"]) <= 2
        for line in cue["lines"]:
            assert sum(2 if ord(c) > 0x2E80 else 1 for c in line) <= 42, line
        assert cue["end"] - cue["start"] <= 7000
        assert cue["start"] in starts
    for cue, following in pairwise(cues):
        assert cue["end"] <= following["start"] - 80
        assert cue["end"] - cue["start"] >= 1000 or cue["end"] == following["start"] - 80


def said(words, whole):
    """The same words for the server's layout."""
    timed = tuple(timed_word(w["text"], w["start"], w["end"]) for w in words)
    text = "".join(w["text"] for w in words)
    if whole:
        return Segment(0, text, timed[0].start, timed[-1].end)
    return timed_segment(0, text, words=timed)


async def laid_out(server, transcripts):
    """What the page makes of transcripts: segments, and the audio's length if that is known."""
    return await run(
        server,
        """
        return given.map(({segments, duration}) => {
          const cues = modules.cues(segments, duration ?? undefined);
          return {cues, srt: modules.toSrt(cues), vtt: modules.toVtt(cues)};
        });
        """,
        transcripts,
    )


def as_page(segment):
    """A golden segment as the page keeps it, which takes what has no finer times as a word."""
    return segment if "words" in segment else {"words": [segment], "whole": True}


async def test_the_page_lays_out_the_golden_cues(server):
    golden = json.loads(GOLDEN.read_text())
    given = [{**case, "segments": [*map(as_page, case["segments"])]} for case in golden]
    for case, shown in zip(golden, await laid_out(server, given), strict=True):
        assert shown == {key: case[key] for key in ("cues", "srt", "vtt")}, case["name"]


def any_transcript(chance):
    """Words at any pace, with any pauses, in up to four segments; times as a wire has them."""
    now, segments = round(chance.random() * 3, 3), []
    for _ in range(chance.randint(1, 4)):
        words = []
        for _ in range(chance.randint(1, 30)):
            start = round(now + chance.choice((0, 0, 0, 0.05, 0.2, 0.3, 0.9, 1.2, 3)), 3)
            now = round(start + chance.uniform(0.03, 0.9), 3)
            words.append(word(chance.choice(("", " ", " ")) + chance.choice(PIECES), start, now))
        segments.append({"words": words, "whole": chance.random() < 0.1})
        if segments[-1]["whole"]:
            text = "".join(w["text"] for w in words)
            segments[-1]["words"] = [word(text, words[0]["start"], now)]
    return {"segments": segments, "duration": chance.choice((None, now + 0.1))}


@pytest.mark.long
async def test_the_page_and_the_server_lay_out_the_same_cues(server):
    chance = random.Random(33)
    transcripts = [any_transcript(chance) for _ in range(300)]
    shown = await laid_out(server, transcripts)
    for given, page in zip(transcripts, shown, strict=True):
        segments = [said(**segment) for segment in given["segments"]]
        found = subtitles.cues(segments, duration=given["duration"])
        assert [(c["start"], c["end"], tuple(c["lines"])) for c in page["cues"]] == [
            (c.start_ms, c.end_ms, c.lines) for c in found
        ]
        assert page["srt"] == subtitles.srt(found)
        assert page["vtt"] == subtitles.vtt(found)


async def test_files_say_what_was_said(server):
    words = [word("Tea", 3661.5, 3661.9, 0.75), word(" & <b>cake</b>", 3662.0, 3662.6)]
    files = await run(
        server,
        """
        const t = new modules.Transcript();
        t.about = {model: "m", language: "en"};
        t.words("a/0", given);
        t.mark(3663, "The connection was lost and is back. 4 s of sound are missing here.");
        t.words("a/1", [{text: " a --> b", start: 3670, end: 3671, p: null}]);
        const all = {};
        for (const [name, {write}] of Object.entries(modules.FORMATS)) all[name] = write(t, "Tea");
        return all;
        """,
        words,
    )
    mark = "The connection was lost and is back. 4 s of sound are missing here."
    assert files["txt"] == f"Tea & <b>cake</b>\n\n[{mark}]\n\na --> b\n"
    assert files["srt"] == (
        "1\n01:01:01,500 --> 01:01:02,600\nTea & <b>cake</b>\n\n"
        "2\n01:01:10,000 --> 01:01:11,000\na -> b\n\n"
    )
    assert files["vtt"] == (
        "WEBVTT\n\n01:01:01.500 --> 01:01:02.600\nTea &amp; &lt;b&gt;cake&lt;/b&gt;\n\n"
        "01:01:10.000 --> 01:01:11.000\na --&gt; b\n\n"
    )
    value = json.loads(files["json"])
    assert value["model"] == "m"
    assert value["text"] == "Tea & <b>cake</b> a --> b"
    assert value["segments"][0]["words"] == words
    assert [s["id"] for s in value["segments"]] == [0, 1]
    assert value["marks"] == [{"at": 3663, "text": mark}]


async def test_markup_in_words_is_text(server):
    async with browsing(server.url) as watched:
        page = watched.page
        await evaluate(
            page,
            """
            const make = () => document.body.appendChild(document.createElement("div"));
            const list = make();
            list.id = "hostile";
            const spoken = make();
            spoken.id = "spoken";
            const captions = new modules.TranscriptView(make(), list, make(), spoken);
            const t = new modules.Transcript();
            t.words("a/0", [{text: given, start: 0, end: 1, p: null}]);
            t.mark(2, given);
            t.words("a/1", [{text: given, start: 3, end: 4, p: null}]);
            t.drafted("a/1", given);
            captions.announce(given);
            captions.readOut();
            captions.show(t);
            """,
            HOSTILE,
        )
        await page.wait_for_selector("#hostile .draft")
        assert await page.locator("#hostile p").all_text_contents() == [
            HOSTILE,
            HOSTILE,
            HOSTILE * 2,
        ]
        assert await page.text_content("#spoken") == HOSTILE
        assert (
            await page.locator("#hostile :is(img, script), #spoken :is(img, script)").count() == 0
        )
        assert await page.evaluate("window.pwned") is None


async def test_captions_follow_until_the_reader_scrolls_back(server):
    async with browsing(server.url) as watched:
        page = watched.page
        await evaluate(
            page,
            """
            const box = document.createElement("div");
            const list = document.createElement("div");
            box.id = "box";
            box.append(list);
            Object.assign(box.style, {position: "fixed", inset: "0", height: "300px",
                                      overflow: "auto", background: "Canvas"});
            const jump = document.body.appendChild(document.createElement("button"));
            jump.id = "back";
            Object.assign(jump.style, {position: "fixed", top: "400px"});
            document.body.append(box);
            const spoken = document.createElement("p");
            const captions = new modules.TranscriptView(box, list, jump, spoken);
            const t = new modules.Transcript();
            window.say = (n) => {
              for (let i = 0; i < n; i++) {
                const start = t.segments.length * 10;
                const text = ` paragraph number ${t.segments.length} `.repeat(20);
                t.words(`a/${start}`, [{text, start, end: start + 1, p: null}]);
              }
              captions.show(t);
            };
            window.place = () => [box.scrollTop, box.scrollHeight - box.clientHeight];
            """,
        )
        at_end = "Math.abs(place()[0] - place()[1]) < 2"
        # What is opened shows its newest rows at once, and the others above them after that.
        numbers = "p => +/[0-9]+/.exec(p.textContent)[0]"
        order = f"[...document.querySelectorAll('#box p')].map({numbers})"
        first = await page.evaluate(
            f"new Promise((done) => {{ say(700); requestAnimationFrame(() => done({order})); }})"
        )
        assert first == list(range(500, 700))
        await page.wait_for_function(
            f"() => document.querySelectorAll('#box .paragraph').length === 700 && {at_end}"
        )
        assert await page.evaluate(order) == list(range(700))
        assert await page.is_hidden("#back")
        await page.hover("#box")
        await page.mouse.wheel(0, -500)
        await page.wait_for_selector("#back", state="visible")
        top = await page.evaluate("place()[0]")
        await page.evaluate("say(5)")
        await page.wait_for_function(
            "() => document.querySelectorAll('#box .paragraph').length === 705"
        )
        await page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert await page.evaluate("place()[0]") == pytest.approx(top, abs=2)
        await page.click("#back")
        await page.wait_for_function(f"() => {at_end}")
        await page.evaluate("say(1)")
        await page.wait_for_function(
            f"() => document.querySelectorAll('#box .paragraph').length === 706 && {at_end}"
        )
        assert await page.is_hidden("#back")
        nodes = await page.evaluate("document.querySelectorAll('#box *').length")
        blocks = await page.evaluate("document.querySelectorAll('#box .block').length")
        assert nodes == 1 + blocks + 3 * 706
        assert blocks == 8
        # What is out of sight, and not rendered, can be searched and copied all the same.
        rendered = "checkVisibility({contentVisibilityAuto: true})"
        oldest = f"document.querySelector('#box .block p').{rendered}"
        assert not await page.evaluate(oldest)
        chosen = (
            "(getSelection().selectAllChildren(document.querySelector('#box')), getSelection())"
        )
        text = await page.evaluate(f"{chosen}.toString()")
        assert all(f"number {n} " in text for n in (0, 350, 705))
        await page.evaluate("getSelection().empty()")
        assert await page.evaluate("find('number 3 ', true, false, true)")
        await page.evaluate("document.querySelector('#box .paragraph').scrollIntoView()")
        await page.wait_for_selector("#back", state="visible")
        assert await page.evaluate("place()[0]") < 100


async def test_an_answer_becomes_segments_of_words(server):
    answer = {
        "text": "Hello, there. “Good” bye.",
        "segments": [
            {"start": 0.5, "end": 1.5, "text": "Hello, there."},
            {"start": 5.0, "end": 6.0, "text": "“Good” bye."},
            {"start": 8.0, "end": 9.0, "text": "No times"},
        ],
        "words": [
            {"word": "Hello,", "start": 0.5, "end": 0.9},
            {"word": "there.", "start": 1.0, "end": 1.5},
            {"word": "“Good”", "start": 5.0, "end": 5.5},
            {"word": "bye.", "start": 5.5, "end": 6.0},
        ],
    }
    segments = await run(server, "return modules.segmentsOf(given)", answer)
    assert [one["whole"] for one in segments] == [False, False, True]
    assert [[w["text"] for w in one["words"]] for one in segments] == [
        ["Hello,", " there."],
        [" “Good”", " bye."],
        [" No times"],
    ]
    assert segments[1]["words"][0] == word(" “Good”", 5.0, 5.5)


async def test_audio_is_kept_by_position_up_to_its_bound(server):
    read = await run(
        server,
        """
        const kept = new modules.KeptAudio(40_000);
        const push = (from, length) => kept.push(Int16Array.from({length}, (_, i) => from + i));
        const state = (at) => [kept.start, kept.end, kept.middle, [...kept.read(at, 5)]];
        const seen = [];
        let at = 0;
        for (const count of [300, 640, 1, 0, 16_000, 15_059, 32_000]) {
          push(at % 30_000, count);
          at += count;
          seen.push(state(kept.start));
        }
        seen.push(state(31_998), state(63_998));
        kept.drop(10);
        seen.push(state(kept.start));
        kept.drop(50_000);
        seen.push(state(50_000));
        kept.drop(1e9);
        return [...seen, state(64_000)];
        """,
    )
    first = list(range(5))
    assert read == [
        *([0, end, 0, first] for end in (300, 940, 941, 941, 16_941)),
        [0, 32_000, 12_000, first],
        [24_000, 64_000, 44_000, [value % 30_000 for value in range(24_000, 24_005)]],
        [24_000, 64_000, 44_000, [31_998, 31_999, 2000, 2001, 2002]],
        [24_000, 64_000, 44_000, [33_998 - 65_536, 33_999 - 65_536]],
        [24_000, 64_000, 44_000, [24_000, 24_001, 24_002, 24_003, 24_004]],
        [50_000, 64_000, 50_000, [20_000, 20_001, 20_002, 20_003, 20_004]],
        [64_000, 64_000, 64_000, []],
    ]


async def test_words_that_come_late_stand_before_a_later_mark(server):
    async with browsing(server.url) as watched:
        page = watched.page
        shown = await evaluate(
            page,
            """
            const list = document.body.appendChild(document.createElement("div"));
            const box = document.createElement("div");
            const painted = (done) => requestAnimationFrame(() => setTimeout(done));
            const frame = () => new Promise(painted);
            const view = new modules.TranscriptView(box, list, box, document.createElement("p"));
            const t = new modules.Transcript();
            const say = (key, text, start) =>
              t.words(key, [{text, start, end: start + 0.4, p: null}]);
            say("a/0", "One", 1);
            view.show(t); await frame();
            t.mark(5, "first", true);
            t.drafted("a/0", " two");
            view.show(t); await frame();
            t.mark(9, "second", true);
            say("a/0", " two", 1.5);
            say("a/1", " three", 6);
            view.show(t); await frame();
            say("a/1", " four", 6.5);
            say("a/2", " five", 10);
            say("a/2", " six", 10.5);
            view.show(t); await frame();
            const again = modules.Transcript.of(t.entries, {});
            const texts = [...list.querySelectorAll("p")].map((p) => p.textContent);
            return {texts, again: again.items.map((item) => item.text), text: again.text};
            """,
        )
    texts = ["One two", "first", "three four", "second", "five six"]
    assert shown["texts"] == shown["again"] == texts
    assert shown["text"] == "One two three four five six"


async def test_a_mark_waits_for_the_end_of_the_sentence(server):
    shown = await run(
        server,
        """
        const { Transcript } = modules;
        const of = (marked, texts) => {
          const t = new Transcript();
          for (const [n, text] of texts.entries()) {
            if (n === 2) t.mark(n, "mark", marked);
            t.words("a/0", [{text, start: n, end: n + 0.5, p: null}]);
          }
          const again = Transcript.of(t.entries, {});
          return [t, again].map(({items}) => items.map((item) => item.text));
        };
        const words = ["We", " bought", " apples", " and", " milk.", " Then", " we left."];
        return [of(true, words), of(false, words), of(true, ["So", " it", " goes", " on"])];
        """,
    )
    own, gap, unended = shown
    assert own == [["We bought apples and milk.", "mark", "Then we left."]] * 2
    # Where sound is missing, it parts what was said before and after.
    assert gap == [["We bought", "mark", "apples and milk. Then we left."]] * 2
    assert unended == [["So it goes on", "mark"]] * 2


async def test_sources_that_speak_at_once_have_a_paragraph_each(server):
    shown = await run(
        server,
        """
        const t = new modules.Transcript();
        const say = (source, key, text, start) =>
          t.words(key, [{text, start, end: start + 0.4, p: null, source}]);
        say("me", "s/0", "One", 1);
        say("them", "s/1", "Hello", 1.2);
        t.drafted("s/0", " two", 9, "me");
        t.drafted("s/1", " you", 9, "them");
        const drafts = [...t.drafts.values()].map(({ text, apart }) => [text, apart]);
        say("me", "s/0", " two.", 1.5);
        say("them", "s/1", " you.", 1.7);
        say("them", "s/2", " More", 2.5);
        say("me", "s/3", " Three", 2.4);
        const texts = ({ items }) => items.map(({ source, text }) => [source, text]);
        const again = modules.Transcript.of(t.entries, {});
        const files = { txt: modules.toText(t, true), vtt: modules.FORMATS.vtt.write(t) };
        return { drafts, items: texts(t), again: texts(again), text: t.text, files };
        """,
    )
    assert shown["drafts"] == [[" two", False], [" you", False]]
    items = [["me", "One two."], ["them", "Hello you. More"], ["me", "Three"]]
    assert shown["items"] == shown["again"] == items
    assert shown["text"] == "me: One two.\nthem: Hello you.\nthem: More\nme: Three\n"
    assert (
        shown["files"]["txt"]
        == "0:01 me: One two.\n\n0:01 them: Hello you. More\n\n0:02 me: Three\n"
    )
    assert "00:00:01.000 --> 00:00:02.000\n<v me>One two.\n" in shown["files"]["vtt"]
    assert "00:00:01.200 --> 00:00:02.200\n<v them>Hello you.\n" in shown["files"]["vtt"]


async def test_who_speaks_begins_a_paragraph_before_the_first_word(server):
    shown = await run(
        server,
        """
        const { Transcript } = modules;
        const t = new Transcript();
        const named = () => {
          const found = t.named();
          if (found) t.correct(found);
          return found !== null;
        };
        const found = [];
        t.words("a/0", given.slice(0, 4));
        t.turn("Anna", 1.5);
        found.push(named());
        t.speechStarted(2.1);
        t.turn("Ben", 2.8);
        found.push(named());
        t.words("a/1", given.slice(4, 6));
        found.push(named());
        t.words("a/1", given.slice(6));
        const seen = (one) => one.items.map(({ text, start, end }) => [text, start, end]);
        return { found, seen: seen(t), again: seen(Transcript.of(t.entries, {})), text: t.text };
        """,
        [*spoken("One two three four"), *spoken(" I am next", start=2.0)],
    )
    assert shown["found"] == [True, False, True]
    assert shown["seen"] == [
        ["One two", 0, 0.8],
        ["Anna: three four", 0.8, 1.6],
        ["Ben: I am next", 2.0, 3.2],
    ]
    assert shown["again"] == shown["seen"]
    assert shown["text"] == "One two Anna: three four Ben: I am next"


async def test_a_text_that_is_edited_becomes_the_fewest_corrections(server):
    spoken_words = ["We", " bought", " apples,", " and", " milk."]
    cases = [
        (spoken_words, "We bought pears, and milk.", [[2, 3, "pears,"]]),
        (spoken_words, "We bought apples, and some milk.", [[3, 4, "and some"]]),
        (spoken_words, "They bought apples and milk.", [[0, 1, "They"], [2, 3, "apples"]]),
        (spoken_words, "bought apples,", [[0, 1, ""], [3, 5, ""]]),
        (spoken_words, "", [[0, 5, ""]]),
        (["我们", "买", "了", "苹果", "。"], "我们买了梨。", [[3, 4, "梨"]]),
        (["我们", "买", "了", "苹果", "。"], "我们昨天买了苹果。", [[0, 1, "我们昨天"]]),
    ]
    shown = await run(
        server,
        """
        const { changes } = await import("/static/correct.js");
        return given.map(([texts, edited]) => {
          const t = new modules.Transcript();
          for (const [n, text] of texts.entries()) {
            t.words("a/0", [{text, start: n, end: n + 1, p: 0.9}]);
          }
          const made = changes(modules.Transcript.placed(t.items[0]), edited);
          const back = t.restoring(made);
          for (const one of made) t.correct(one);
          const after = t.items[0].text;
          const again = modules.Transcript.of(t.entries, {}).items[0].text;
          for (const one of back) t.correct(one);
          const spans = made.map(({ first, stop, text }) => [first, stop, text]);
          return { spans, after, again, undone: t.items[0].text };
        });
        """,
        [case[:2] for case in cases],
    )
    for (texts, edited, spans), found in zip(cases, shown, strict=True):
        assert found["spans"] == spans
        assert found["after"] == found["again"] == edited
        assert found["undone"] == "".join(texts)


async def test_long_speech_is_parted_at_sentences_and_read_out_in_pieces(server):
    sentences = " ".join(f"This is sentence number {n} of a long talk." for n in range(80))
    unbroken = "word " * 500
    shown = await run(
        server,
        """
        const announcer = document.createElement("div");
        const box = document.createElement("div");
        const view = new modules.TranscriptView(box, document.createElement("div"), box, announcer);
        const pieces = [];
        new MutationObserver((seen) => {
          for (const { addedNodes } of seen) for (const p of addedNodes) pieces.push(p.textContent);
        }).observe(announcer, { childList: true });
        const said = (text) => {
          const t = new modules.Transcript();
          let at = 0;
          for (const [word] of text.matchAll(/\\s*\\S+/g)) {
            t.words("a/0", [{text: word, start: at, end: at += 0.3, p: null}]);
          }
          return t.items.map((item) => item.text);
        };
        for (const [word] of given[0].matchAll(/\\s*\\S+/g)) view.announce(word);
        view.announce(" and then");
        const others = ["sentences", "off"].map((announcing) => {
          const heard = document.createElement("div");
          const other = new modules.TranscriptView(box, document.createElement("div"), box, heard);
          other.announcing = announcing;
          for (const text of [" A sentence.", " And a half"]) other.announce(text);
          return { heard, other };
        });
        await new Promise((done) => setTimeout(done, 3500));
        const texts = ({ heard }) => [...heard.children].map((p) => p.textContent);
        const asked = () => others.map(texts);
        const before = asked();
        for (const { other } of others) other.readOut(); // as a pause does
        return {long: said(given[0]), unbroken: said(given[1]), pieces, asked: [before, asked()]};
        """,
        [sentences, unbroken],
    )
    assert " ".join(shown["long"]) == sentences
    assert all(text.endswith(".") and len(text) < 400 for text in shown["long"])
    assert max(map(len, shown["unbroken"])) < 1000
    assert shown["pieces"] == [*re.findall(r"This[^.]+\.", sentences), "and then"]
    # Whole sentences, with what a pause ends; or nothing.
    assert shown["asked"] == [[["A sentence."], []], [["A sentence.", "And a half"], []]]


async def test_right_to_left_paragraphs_run_so(server):
    async with browsing(server.url) as watched:
        page = watched.page
        await evaluate(
            page,
            """
            const t = new modules.Transcript();
            for (const [n, text] of given.entries()) {
              t.words(`a/${n}`, [{text, start: n * 10, end: n * 10 + 1, p: null}]);
            }
            const list = document.querySelector("#paragraphs");
            const box = document.querySelector("#captions");
            new modules.TranscriptView(box, list, box, document.createElement("p")).show(t);
            """,
            ["שלום, מה שלומך?", "Hello", "مرحبا بالعالم"],
        )
        await page.wait_for_selector(".paragraph:nth-child(3)", state="attached")
        sides = await page.evaluate(
            """[...document.querySelectorAll(".paragraph p")]
                .map((p) => [getComputedStyle(p).direction, getComputedStyle(p).textAlign])"""
        )
        assert sides == [["rtl", "start"], ["ltr", "start"], ["rtl", "start"]]
