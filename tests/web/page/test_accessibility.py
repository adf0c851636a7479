"""The page by axe in every state and theme, by keys alone, and in many scripts at 400 %."""

from itertools import cycle, islice

import pytest
from support.browser import browsing, line_to, state_is
from support.clips import clip
from support.javascript import FOLDER, ready

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

BROKEN = ["WebSocket connection", "Failed to load resource", "net::ERR"]
# What a theme or a direction can change; the other rules have the same answer in all of them.
SEEN = ["color-contrast", "link-in-text-block", "target-size", "scrollable-region-focusable"]
PLAIN_THEME = {"color_scheme": "light", "forced_colors": "none"}
OTHERS = (
    {"color_scheme": "dark", "forced_colors": "none"},
    {"color_scheme": "light", "forced_colors": "active"},
    "rtl",
)
# Of a page on which a dialog is open, the dialog: what lies behind it has an audit without it.
AUDIT = """async ([rules, behind]) => {
  const runOnly = rules
    ? { type: "rule", values: rules }
    : { type: "tag", values: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"] };
  const open = behind ? [] : [...document.querySelectorAll("dialog[open]")];
  const options = { runOnly, resultTypes: ["violations"] };
  const { violations } = await axe.run(open.at(-1) ?? document, options);
  return violations.map(({ id, nodes }) => [id, nodes[0].html, nodes[0].failureSummary]);
}"""
FOCUS = """() => {
  const { activeElement: at } = document;
  return at.id || at.name || at.closest("[id]")?.id || at.tagName;
}"""
REACHABLE = """() => [...document.querySelectorAll("button, select, input, a[href], [tabindex]")]
  .filter((e) => e.checkVisibility() && !e.disabled && !e.closest("dialog") && e.tabIndex === 0)
  .map((e) => e.id)"""
OPENERS = """() => [...document.querySelectorAll('[aria-haspopup="dialog"]')]
  .filter((e) => e.checkVisibility() && !e.disabled).map((e) => e.id)"""
DIALOG = "document.querySelector('dialog[open]').id"
# What people say, in scripts with letters, marks and directions of their own.
SAID = (
    "שלום, מה שלומך? הפגישה מתחילה בתשע ונמשכת עד הצהריים.",
    "مرحبا بالعالم، يبدأ الاجتماع في الساعة التاسعة ويستمر حتى الظهر.",
    "会議は九時に始まり正午まで続きます。資料は事前に配布されますのでご確認ください。",
    "การประชุมเริ่มเวลาเก้าโมงเช้าและดำเนินต่อไปจนถึงเที่ยงวันโดยไม่มีการหยุดพัก",
    "बैठक नौ बजे शुरू होती है और दोपहर तक चलती है, कृपया समय पर आएं।",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen sind heute Thema.",
    "👩‍👩‍👧‍👦🏳️‍🌈🎉 done 👍🏽",
    "x" * 120,
)
SAY = """async (texts) => {
  const { Transcript } = await import("/static/transcript.js");
  const { TranscriptView } = await import("/static/view.js");
  const { CaptionLines } = await import("/static/captionlines.js");
  const t = new Transcript();
  for (const [n, text] of texts.entries()) {
    t.words(`a/${n}`, [{ text, start: n * 10, end: n * 10 + 1, p: null }]);
  }
  t.label({ key: "a/0", first: 0, last: 0, speaker: 0 });
  t.name({ source: "", speaker: 0, name: "x".repeat(64) });
  t.drafted("a/99", texts[0]);
  document.querySelector("#welcome").hidden = true;
  const found = (id) => document.getElementById(id);
  const [box, list, jump] = ["captions", "paragraphs", "jump"].map(found);
  new TranscriptView(box, list, jump, document.createElement("p")).show(t);
  window.staged = () => new CaptionLines(document.querySelector("#stage-lines")).show(t);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}"""
OVERFLOWING = """() => {
  const wide = document.documentElement.scrollWidth > innerWidth;
  const out = [...document.querySelectorAll(".paragraph p, .caption-roll p, dialog[open] *")]
    .filter((e) => e.checkVisibility() && e.getClientRects().length)
    .filter((e) => {
      const { left, right } = e.getBoundingClientRect();
      return left < -1 || right > innerWidth + 1;
    });
  return [wide, out.map((e) => e.outerHTML.slice(0, 80))];
}"""


# `make test` has one of the other themes and the other direction for every second state, in turn.
@pytest.mark.long
@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.endurance)])
async def test_axe_finds_nothing_in_any_state_theme_or_direction(server, tmp_path, everything):
    ready()
    axe = (FOLDER / "node_modules" / "axe-core" / "axe.min.js").read_text()
    wav = clip("minute").write_wav(tmp_path / "clip.wav")
    found, others, turns = {}, cycle(OTHERS), cycle((1, 0))
    async with (
        line_to(server.url) as line,
        browsing(line.url, microphone=wav, settings={"diarize": True}) as watched,
    ):
        watched.expected = BROKEN
        page = watched.page

        async def audit(state, page=page):
            if violations := await page.evaluate(AUDIT, [None, everything]):
                found[state] = violations
            count = len(OTHERS) if everything else next(turns)
            for theme in islice(others, count):
                if theme == "rtl":
                    await page.evaluate("document.documentElement.dir = 'rtl'")
                else:
                    await page.emulate_media(**theme)
                if violations := await page.evaluate(AUDIT, [SEEN, everything]):
                    found[state, str(theme)] = violations
                await page.emulate_media(**PLAIN_THEME)
                await page.evaluate("document.documentElement.removeAttribute('dir')")

        async def prepare(page, ready):
            await page.emulate_media(reduced_motion="reduce", **PLAIN_THEME)
            await page.wait_for_selector(ready)
            await page.evaluate(f"{axe}; 0")

        await prepare(page, '#engine[data-health="ok"]')
        nameless = "document.querySelector('#toggle').lastElementChild.toggleAttribute('hidden')"
        await page.evaluate(nameless)
        assert "button-name" in [rule for rule, *_ in await page.evaluate(AUDIT, [None, True])]
        await page.evaluate(nameless)
        await audit("idle")
        for opener in await page.evaluate(OPENERS):
            await page.click(f"#{opener}")
            await page.wait_for_selector("dialog[open]")
            dialog = await page.evaluate(DIALOG)
            await audit(dialog)
            if dialog == "about":
                await page.click("#open-developers")
                await page.wait_for_selector("#developers[open]")
                await audit("developers")
                await page.keyboard.press("Escape")
                await page.wait_for_selector("#developers", state="hidden")
            if await page.is_visible(f"#{dialog}"):
                await page.keyboard.press("Escape")
            await page.wait_for_selector(f"#{dialog}", state="hidden")
        await page.keyboard.press("?")
        await audit("keys")
        await page.keyboard.press("Escape")
        await page.click("#toggle")
        await state_is(page, "listening")
        await page.wait_for_selector(".draft")
        await page.wait_for_selector("#paragraphs p")
        await audit("listening")
        await page.keyboard.press("p")
        await page.keyboard.press("m")
        await audit("paused")
        await page.keyboard.press("f")
        await page.wait_for_selector("#stage[open]")
        await audit("captions")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("#stage", state="hidden")
        # Those who read along, and who make an overlay.
        other = await page.context.new_page()
        await other.goto(await page.input_value("#share-url"))
        await prepare(other, "#text span")
        await audit("reading page", other)
        await other.click("#open-look")
        await audit("look of the reading page", other)
        await other.goto(await page.get_attribute("#share-overlay", "href"))
        await prepare(other, "#text b")
        await audit("overlay builder", other)
        await other.close()
        line.cut()
        await state_is(page, "reconnecting")
        await audit("reconnecting")
        line.mend()
        await state_is(page, "listening")
        await page.click("#toggle")
        await state_is(page, "stopped")
        await page.click("#download-open")
        await audit("ended, with the list of formats")
        await page.keyboard.press("Escape")
        await page.click("#open-sessions")
        await page.wait_for_selector(".session")
        await audit("sessions")
        await page.keyboard.press("Escape")
        await page.evaluate(
            """() => {
              const { mediaDevices } = navigator;
              const refused = () => Promise.reject(new DOMException("", "NotFoundError"));
              Object.defineProperty(mediaDevices, "getUserMedia", { value: refused });
            }"""
        )
        await page.click("#toggle")
        await state_is(page, "error")
        await audit("error")
    assert found == {}


@pytest.mark.long
async def test_a_walk_by_keys_reaches_all_and_comes_back(server, tmp_path):
    wav = clip("yes").write_wav(tmp_path / "clip.wav")
    async with browsing(server.url, microphone=wav) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.wait_for_selector("#together")  # once the microphones are known

        async def walk(count):
            seen = []
            for _ in range(count):
                await page.keyboard.press("Tab")
                seen.append(await page.evaluate(FOCUS))
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert await page.evaluate(outline) != "none", seen
            return seen

        reachable = await page.evaluate(REACHABLE)
        assert {"captions", "source", "language", "toggle", "upload"} < {*reachable}
        assert await walk(len(reachable)) == reachable
        # Each dialog takes the focus, and gives it back to what opened it.
        for opener in await page.evaluate(OPENERS):
            await page.focus(f"#{opener}")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("dialog[open]")
            dialog = await page.evaluate(DIALOG)
            assert await page.evaluate("document.activeElement.closest('dialog').id") == dialog
            await page.keyboard.press("Tab")
            # Behind its last control are those of the browser, never the page below it.
            within = await page.evaluate("document.activeElement.closest('dialog, body').id")
            assert within in (dialog, ""), within
            await page.keyboard.press("Escape")
            await page.wait_for_selector(f"#{dialog}", state="hidden")
            assert await page.evaluate(FOCUS) == opener
        # Caption mode by keys: larger, then out again.
        await page.keyboard.press("Escape")
        await page.keyboard.press("f")
        await page.keyboard.press("Tab")
        assert await page.evaluate(FOCUS) == "stageSize"
        await page.keyboard.press("ArrowRight")
        assert await page.inner_text("#stage-size-text") == "76 px"
        assert (
            await page.locator(".stage-controls").evaluate("(e) => getComputedStyle(e).opacity")
            == "1"
        )
        await page.keyboard.press("f")
        await page.wait_for_selector("#stage", state="hidden")
        # A session: start, mark, stop by Enter, download.
        await page.focus("#toggle")
        await page.keyboard.press("Enter")
        await state_is(page, "listening")
        await page.wait_for_selector(".paragraph")
        await page.keyboard.press("m")
        await page.keyboard.press("Enter")
        await state_is(page, "stopped")
        assert await walk(4) == ["upload", "copy", "download-open", "clear"]
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        async with page.expect_download() as file:
            await page.keyboard.press("Enter")
        assert (await file.value).suggested_filename.endswith(".txt")
        assert await page.evaluate(FOCUS) == "download-open"


@pytest.mark.long
async def test_every_script_fits_at_400_per_cent(server, tmp_path):
    size = {"width": 320, "height": 256}  # of 1280 by 1024
    async with browsing(server.url, viewport=size) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.evaluate(SAY, SAID)
        for font in ("page", "dyslexic", "mono"):
            await page.evaluate(
                "(font) => void (document.documentElement.dataset.font = font)", font
            )
            assert await page.evaluate(OVERFLOWING) == [False, []], font
        sides = await page.locator(".paragraph p").evaluate_all(
            "(all) => all.map((p) => getComputedStyle(p).direction)"
        )
        assert sides[:3] == ["rtl", "rtl", "ltr"]
        await page.screenshot(path=tmp_path / "scripts.png", full_page=True)
        for opener, dialog in (("#open-settings", "#settings"), ("#open-stage", "#stage")):
            await page.locator(opener).focus()
            await page.keyboard.press("Enter")
            await page.wait_for_selector(f"{dialog}[open]")
            if dialog == "#stage":
                for pixels in ("24", "160"):
                    await page.fill("[name=stageSize]", pixels)
                    await page.evaluate("window.staged()")
                    assert await page.evaluate(OVERFLOWING) == [False, []], pixels
            assert await page.evaluate(OVERFLOWING) == [False, []], dialog
            await page.screenshot(path=tmp_path / f"{dialog[1:]}.png")
            await page.keyboard.press("Escape")
