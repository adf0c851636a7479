"""The page on paper, in forced colours, in a small window, by keys; what its controls do."""

import json
import re

import pytest
from support.browser import browsing, reload, state_is
from support.clips import clip

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# Paragraphs of words on the page.
FILL = """async (count) => {
  const { Transcript } = await import("/static/transcript.js");
  const { TranscriptView } = await import("/static/view.js");
  const t = new Transcript();
  for (let n = 0; n < count; n++) {
    const text = `Paragraph ${n} of a long talk, which goes on and on. `.repeat(4);
    t.words(`a/${n}`, [{ text, start: n * 10, end: n * 10 + 5, p: null }]);
  }
  const box = document.querySelector("#captions");
  const list = document.querySelector("#paragraphs");
  document.querySelector("#welcome").hidden = true;
  const jump = document.querySelector("#jump");
  new TranscriptView(box, list, jump, document.createElement("p")).show(t);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}"""


@pytest.mark.long
async def test_the_newest_line_does_not_creep_and_all_is_printed_and_nothing_else(server, tmp_path):
    async with browsing(server.url) as watched:
        page = watched.page
        bottoms = []
        for count in (1, 2, 4):
            await page.evaluate("document.querySelector('#paragraphs').replaceChildren()")
            await page.evaluate(FILL, count)
            box = await page.locator(".paragraph").last.bounding_box()
            bottoms.append(box["y"] + box["height"])
        assert max(bottoms) - min(bottoms) < 2
        await page.evaluate("document.querySelector('#paragraphs').replaceChildren()")
        await page.evaluate(FILL, 60)
        pdf = await page.pdf(path=tmp_path / "print.pdf", format="A4")
        pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
        assert 4 <= pages <= 12
        await page.emulate_media(media="print")
        for hidden in (".dock", ".bar", "#jump", "#welcome"):
            assert await page.is_hidden(hidden), hidden
        scrolls = "(e) => e.scrollHeight - e.clientHeight"
        assert await page.locator("#captions").evaluate(scrolls) <= 1


async def test_forced_colours_leave_edges_and_the_meter(server, tmp_path):
    async with browsing(server.url, forced_colors="active") as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        for button in ("#toggle", "#open-settings", "#upload", "#engine"):
            style = await page.locator(button).evaluate(
                "(e) => [getComputedStyle(e).borderTopStyle, getComputedStyle(e).borderTopWidth]"
            )
            assert style[0] == "solid", button
            assert float(style[1].removesuffix("px")) >= 1, button
        colour = "(e) => getComputedStyle(e).backgroundColor"
        meter = await page.locator("#meter").evaluate(colour)
        fill = await page.locator("#meter-fill").evaluate(colour)
        ground = await page.locator("body").evaluate(colour)
        assert len({meter, fill, ground}) == 3
        await page.screenshot(path=tmp_path / "forced.png")


@pytest.mark.long
async def test_a_window_of_320_by_256_cuts_nothing_off(server, tmp_path):
    async with browsing(server.url, viewport={"width": 320, "height": 256}) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await fits(page)
        await page.click("#toggle")
        await state_is(page, "listening")
        await fits(page)
        await page.screenshot(path=tmp_path / "small.png", full_page=True)


async def fits(page):
    """Everything of the dock can be seen whole, and nothing lies over another."""
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    boxes = {}
    shown = ["#status", "#toggle", "#download-open", "#source", "#upload", "#clear"]
    for one in shown:
        await page.locator(one).scroll_into_view_if_needed()
        box = await page.locator(one).bounding_box()
        assert box["x"] >= 0, one
        assert box["x"] + box["width"] <= 320, one
        assert box["y"] >= 0, one
        assert box["y"] + box["height"] <= 257, one
        top = box["y"] + await page.evaluate("scrollY")
        boxes[one] = (box["x"], top, box["x"] + box["width"], top + box["height"])
    for one in shown:
        for other in shown[: shown.index(one)]:
            (a, b, c, d), (e, f, g, h) = boxes[one], boxes[other]
            assert a >= g - 1 or e >= c - 1 or b >= h - 1 or f >= d - 1, (one, other)


@pytest.mark.long
async def test_speed_and_language_are_chosen_above_start_which_may_be_in_vain(server):
    async with browsing(server.url) as watched:
        page = watched.page
        sent = []
        page.on("websocket", lambda socket: socket.on("framesent", lambda data: sent.append(data)))
        await page.wait_for_selector('#engine[data-health="ok"]')
        speeds = await page.locator("#speed option").all_inner_texts()
        assert [one.split(",")[0] for one in speeds] == ["Fast", "Steady", "Careful"]
        assert await page.input_value("#speed") == ""  # the server's own
        await page.select_option("#speed", "fast")
        await page.select_option("#language", "en")
        await page.click("#toggle")
        await state_is(page, "listening")
        assert await page.is_hidden("#choices")
        start = json.loads(sent[0])
        assert (start["commit"], start["language"]) == ("fast", "en")
        await page.click("#toggle")
        await state_is(page, "idle", "stopped")
        await reload(page)
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert await page.input_value("#speed") == "fast"
        assert await page.input_value("#language") == "en"
        # A browser that never begins to record is told.
        await page.evaluate(
            "() => { AudioContext.prototype.resume = () => new Promise(() => {}); }"
        )
        await page.click("#toggle")
        await state_is(page, "error")
        assert await page.inner_text("#notice-title") == "The browser does not begin to record"
        assert "audio output" in await page.inner_text("#notice-steps")
        assert await page.is_enabled("#toggle")


@pytest.mark.long
async def test_pause_mute_and_marks_by_keys(server, tmp_path):
    wav = clip("minute").write_wav(tmp_path / "clip.wav")
    async with browsing(server.url, microphone=wav) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert await page.title() == "voxlive"
        await page.keyboard.press("?")
        assert await page.is_visible("#keys")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("#keys", state="hidden")
        await page.keyboard.press("?")
        # A key may come before the browser has taken the focus from what closes.
        await page.evaluate(
            """() => {
              document.querySelector("#keys").close();
              const space = new KeyboardEvent("keydown", { key: " ", bubbles: true });
              document.activeElement.dispatchEvent(space);
            }"""
        )
        await state_is(page, "listening")
        await page.wait_for_function("() => /^● 0:0[1-9] · voxlive$/.test(document.title)")
        await page.keyboard.press("p")
        assert await page.get_attribute("#pause-sound", "aria-pressed") == "true"
        assert await page.inner_text("#pause-sound") == "Resume"
        assert (await page.title()).startswith("Paused · ")
        assert await page.inner_text("#status") == "Paused"
        clock = (await page.inner_text("#detail")).split(" · ")[0]
        await page.wait_for_timeout(1500)
        detail = await page.inner_text("#detail")
        assert detail.split(" · ")[0] == clock
        assert "paused: nothing is recorded" in detail
        await page.keyboard.press("p")
        await page.keyboard.press("u")
        assert await page.get_attribute("#mute", "aria-pressed") == "true"
        await page.wait_for_function(
            """(clock) => {
              const { textContent } = document.querySelector("#detail");
              return !textContent.startsWith(clock) && textContent.includes("silence is sent");
            }""",
            arg=clock,
        )
        level = "new DOMMatrix(document.querySelector('#meter-fill').style.transform).a"
        await page.wait_for_function(f"() => {level} < 0.01")
        await page.keyboard.press("u")
        await page.keyboard.press("m")
        assert "marked" in await page.inner_text("#detail")
        assert await page.inner_text(".mark.own p") == "Marked"
        # Keys are letters where one writes.
        await page.keyboard.press("Space")
        await state_is(page, "idle", "stopped")
        await page.keyboard.press("t")
        await page.wait_for_selector("#sessions[open]")
        await page.keyboard.type("mpu?")
        assert await page.input_value("#sessions-search") == "mpu?"
        assert await page.is_hidden("#keys")


@pytest.mark.long
async def test_caption_mode_holds_the_newest_line_at_the_bottom(server, tmp_path):
    async with browsing(server.url, reduced_motion="reduce") as watched:
        page = watched.page
        for name in ("yes", "market"):
            await page.set_input_files("#file", clip(name).path)
            await state_is(page, "uploading")
            await state_is(page, "stopped")
        await page.keyboard.press("f")
        await page.wait_for_selector("#stage[open]")
        text = await page.inner_text("#paragraphs .paragraph:last-child p")
        assert (await page.inner_text("#stage-lines")).endswith(text[-40:])
        await page.select_option("[name=stageLines]", "2")
        boxes = {}
        for size, spacing in (("24", "1.3"), ("96", "2"), ("160", "1.3")):
            await page.select_option("[name=stageSpacing]", spacing)
            await page.fill("[name=stageSize]", size)
            assert await page.inner_text("#stage-size-text") == f"{size} px"
            line = float(spacing) * int(size)
            frame = await page.locator("#stage-lines").bounding_box()
            assert frame["height"] == pytest.approx(2 * line, abs=1)
            words = await page.locator(".caption-roll").bounding_box()
            boxes[size] = words["y"] + words["height"]
            # Whole lines: what is older goes out at the top.
            assert words["height"] / line == pytest.approx(round(words["height"] / line), abs=0.05)
        assert max(boxes.values()) - min(boxes.values()) < 1
        assert 700 < boxes["24"] <= 800
        colours = "(e) => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        stage = page.locator("#stage")
        await page.select_option("[name=stageColours]", "yellow")
        assert await stage.evaluate(colours) == ["rgb(0, 0, 0)", "rgb(255, 233, 74)"]
        await page.select_option("[name=stageColours]", "own")
        await page.fill("[name=stageInk]", "#ffeedd")
        await page.fill("[name=stageGround]", "#112233")
        assert await stage.evaluate(colours) == ["rgb(17, 34, 51)", "rgb(255, 238, 221)"]
        for font, face in (
            ("legible", "Atkinson Hyperlegible Next"),
            ("mono", "Atkinson Hyperlegible Mono"),
            ("dyslexic", "OpenDyslexic"),
        ):
            await page.select_option("[name=stageFont]", font)
            await page.wait_for_function(
                """(face) => [...document.fonts].some(({ family, status }) =>
                  family.replaceAll('"', "") === face && status === "loaded")""",
                arg=face,
            )
        await page.screenshot(path=tmp_path / "stage.png")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("#stage:not([open])", state="attached")
        await page.reload()
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.click("#open-stage")
        for name, value in (
            ("stageSize", "160"),
            ("stageFont", "dyslexic"),
            ("stageSpacing", "1.3"),
            ("stageGround", "#112233"),
        ):
            assert await page.input_value(f"[name={name}]") == value
        await page.click("#stage-close")
        assert await page.is_hidden("#stage")


# Lines of ten words on a stage of its own, which says how it has moved.
ROLL = """async () => {
  const { Transcript } = await import("/static/transcript.js");
  const { CaptionLines } = await import("/static/captionlines.js");
  const box = document.body.appendChild(document.createElement("div"));
  box.className = "caption-lines";
  box.style.cssText = "position: fixed; inset: 0 auto auto 0; background: white; z-index: 9;" +
    "--stage-width: 400px; --stage-size: 40px; --stage-lines: 2; --stage-spacing: 1.5";
  const lines = new CaptionLines(box);
  lines.count = 2;
  const t = new Transcript();
  const seen = [];
  const roll = box.firstElementChild;
  const note = (what) => {
    lines.show(t);
    const [moving] = roll.getAnimations();
    const from = moving ? new DOMMatrix(moving.effect.getKeyframes()[0].transform).m42 : 0;
    moving?.finish();
    const { bottom } = roll.lastElementChild.getBoundingClientRect();
    const free = box.getBoundingClientRect().bottom - bottom;
    seen.push([what, Math.round(from / 60), Math.round(free / 60)]);
  };
  const say = (text, start) => t.words("a/0", [{ text, start, end: start + 0.1, p: null }]);
  say("One two", 1);
  note("words");
  t.drafted("a/0", " three four five six seven");
  note("a draft of a line more");
  t.drafted("a/0", " three");
  note("a draft that takes it back");
  t.drafted("a/0", " three four five six seven");
  note("and says it again");
  say(" three", 2);
  t.drafted("a/0", "");
  note("less was said");
  for (let n = 0; n < 4000; n++) say(` word${n}`, 3 + n * 0.2);
  note("much more");
  say(" again", 900);
  note("a word after a pause");
  return { seen, blocks: roll.children.length };
}"""


async def test_lines_glide_whole_and_stay_up_for_a_draft(server):
    async with browsing(server.url) as watched:
        page = watched.page
        moved = await page.evaluate(ROLL)
        # What, by how many lines it glides, how many lines stay free below it.
        assert moved["seen"] == [
            ["words", 0, 0],
            ["a draft of a line more", 1, 0],
            ["a draft that takes it back", 0, 1],
            ["and says it again", 0, 0],
            ["less was said", -1, 0],
            ["much more", 0, 0],
            ["a word after a pause", 1, 0],
        ]
        assert moved["blocks"] < 6  # what is far above is taken out
        await page.emulate_media(reduced_motion="reduce")
        assert [by for _, by, _ in (await page.evaluate(ROLL))["seen"]] == [0] * 7


@pytest.mark.long
async def test_captions_in_a_small_window_over_other_programs(server):
    async with browsing(server.url) as watched:
        page = watched.page
        await page.set_input_files("#file", clip("market").path)
        await state_is(page, "stopped")
        text = await page.inner_text("#paragraphs .paragraph:last-child p")
        await page.keyboard.press("f")
        await page.wait_for_selector("#stage[open]")
        async with page.context.expect_page() as opening:
            await page.click("#stage-window")
        small = await opening.value
        await small.wait_for_selector(".caption-roll p")
        assert (await small.inner_text(".caption-lines")).endswith(text[-40:])
        assert await page.is_hidden("#stage")
        size = "parseFloat(getComputedStyle(document.querySelector('.caption-lines')).fontSize)"
        await small.wait_for_function(f"() => {size} > 20")  # its style sheets have come
        assert await small.evaluate(size) <= 72
        assert await small.evaluate("getComputedStyle(document.body).color") == "rgb(255, 255, 255)"
        async with small.expect_event("close"):
            await page.keyboard.press("i")
        # Where a browser has no such documents, it is a video.
        await page.evaluate(
            """() => {
              delete window.documentPictureInPicture;
              window.taken = [];
              HTMLVideoElement.prototype.requestPictureInPicture = async function () {
                window.taken.push(this.videoWidth, this.srcObject.getVideoTracks().length);
              };
            }"""
        )
        await page.keyboard.press("i")
        await page.wait_for_function("() => window.taken.length === 2")
        assert await page.evaluate("window.taken") == [1440, 1]
