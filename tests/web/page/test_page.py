"""The page as it stands before anyone speaks: what it loads, shows, fits and explains."""

import json
import os
import re
import shutil
from urllib.parse import urlsplit

import pytest
from support.browser import PLAIN, browsing, state_is
from support.clips import clip
from support.server import AT_PAUSES, serving
from support.weights import TINY_EN

from voxlive.checkpoints.resolve import resolve

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The contrast of an element's text with what lies behind it (WCAG 2.2, 1.4.3).
CONTRAST = """(element) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  let behind = element;
  while (rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const shades = [
    luminance(rgba(getComputedStyle(element).color)),
    luminance(rgba(getComputedStyle(behind).backgroundColor)),
  ].sort((a, b) => b - a);
  return (shades[0] + 0.05) / (shades[1] + 0.05);
}"""


@pytest.mark.browser
async def test_says_what_is_running_and_remembers_what_is_chosen(server, tmp_path):
    health = server.health()
    async with browsing(server.url, settings="{}", color_scheme="light") as watched:
        page = watched.page
        assert await page.title() == "voxlive"
        assert await page.inner_text("#status") == "Ready"
        await page.wait_for_selector('#engine[data-health="ok"]')
        shown = await page.inner_text("#engine-name")
        assert shown.endswith(f"{health['model']} on {health['device'].upper()}")
        assert health["engine"] in shown
        note = health["note"].replace("`", "")
        assert await page.text_content("#note-text") == note
        assert await page.is_visible("#engine-limits")
        await page.click("#engine")
        facts = await page.inner_text("#about-facts")
        assert health["engine"] in facts
        assert health["version"] in facts
        assert f"{health['in_use']} of {health['capacity']}" in facts
        assert await page.text_content("#about-note") == note
        await page.keyboard.press("Escape")

        # Another language is answered with the model that knows it.
        await page.select_option("#language", "en")
        assert not await page.is_visible("#language-advice")
        await page.select_option("#language", "de")
        advice = await page.inner_text("#language-advice")
        assert advice.startswith("English only")
        assert "voxlive serve --model whisper-base" in advice
        assert not await page.is_visible("#translate")
        await page.screenshot(path=tmp_path / "advice.png")
        await page.select_option("#language", "en")

        ground = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(ground)
        await page.click("#theme")
        dark = await page.evaluate(ground)
        assert dark != light
        await page.click("#open-settings")
        await page.fill("#pause", "900")
        await page.uncheck("[name=noiseSuppression]")
        await page.select_option("[name=size]", "huge")
        assert await page.inner_text("#pause-text") == "0.9 s"
        await page.reload()
        assert await page.evaluate(ground) == dark
        await page.emulate_media(color_scheme="dark")
        await page.click("#open-settings")
        assert await page.input_value("#pause") == "900"
        assert not await page.is_checked("[name=noiseSuppression]")
        assert await page.is_checked("[name=echoCancellation]")
        assert await page.input_value("[name=size]") == "huge"
        await page.select_option("[name=theme]", "light")
        assert await page.evaluate(ground) == light
        await page.select_option("[name=theme]", "system")
        assert await page.evaluate(ground) == dark


@pytest.mark.browser
@pytest.mark.endurance
async def test_the_language_that_is_chosen_or_found_out_is_shown(real_weights, tmp_path):
    wav = clip("doctor").write_wav(tmp_path / "doctor.wav")
    with serving("--model", "whisper-base", *AT_PAUSES) as server:
        async with browsing(server.url, microphone=wav) as watched:
            page = watched.page
            await page.wait_for_selector('#engine[data-health="ok"]')
            offered = await page.locator("#language option").all_inner_texts()
            assert {"German", "Chinese", "English"} < set(offered)
            assert await page.is_visible("#translate")
            await page.click("#toggle")
            assert await state_is(page, "listening", "error") == "listening"
            await page.wait_for_selector('#paragraphs[lang="en"]')
            await page.click("#toggle")
            assert await state_is(page, "stopped", "error") == "stopped"


@pytest.mark.endurance
@pytest.mark.browser
async def test_one_of_several_models_is_chosen(server, tmp_path):
    whisper = resolve(TINY_EN, offline=True).folder
    for name in ("first", "second"):
        shutil.copytree(whisper, tmp_path / name, copy_function=os.symlink)
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    wav = clip("doctor").write_wav(tmp_path / "doctor.wav")
    with serving("--model", first, "--live", f"quick={second}") as both:
        async with browsing(both.url, microphone=wav) as watched:
            page = watched.page
            await page.wait_for_selector('#engine[data-health="ok"]')
            assert "first" in await page.inner_text("#engine-name")
            offered = await page.locator("#model option").all_inner_texts()
            # The choice says what each is good for.
            assert [text.split(":")[0] for text in offered] == ["first", "quick"]
            assert all(re.search(r": \d+ languages$|: .* only$", text) for text in offered)
            await page.select_option("#model", "quick")
            assert "second" in await page.inner_text("#engine-name")
            await page.click("#toggle")
            assert await state_is(page, "listening", "error") == "listening"
            assert [one["in_use"] for one in both.health()["models"]] == [0, 1]
            await page.click("#toggle")
            assert await state_is(page, "idle", "stopped", "error") != "error"
            await page.reload()
            await page.wait_for_selector('#engine[data-health="ok"]')
            assert "second" in await page.inner_text("#engine-name")
            assert await page.input_value("#model") == "quick"
    # A server without it: the page's choice is not there to be made.
    async with browsing(server.url) as watched:
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        assert not await page.is_visible("#model")


@pytest.mark.browser
async def test_fits_a_phone(server, tmp_path):
    size = {"width": 360, "height": 640}
    async with browsing(server.url, viewport=size, has_touch=True) as watched:
        page = watched.page
        width = "document.documentElement.scrollWidth"
        await page.wait_for_selector("#note", state="visible")
        assert await page.evaluate(width) == 360
        for button, dialog in (("#engine", "#about"), ("#open-settings", "#settings")):
            await page.click(button)
            box = await page.locator(dialog).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert await page.evaluate(width) == 360
            await page.keyboard.press("Escape")
        toggle = await page.locator("#toggle").bounding_box()
        assert toggle["y"] + toggle["height"] <= 640
        targets = await page.evaluate(
            """() => [...document.querySelectorAll("button, select")]
                .filter((e) => e.checkVisibility() && !e.matches(".link"))
                .map((e) => [e.id, e.getBoundingClientRect().height])"""
        )
        assert all(height >= 36 for _, height in targets), targets
        await page.screenshot(path=tmp_path / "phone.png")


@pytest.mark.browser
async def test_contrast(server, tmp_path):
    async with browsing(server.url) as watched:
        page = watched.page
        await page.wait_for_selector("#note", state="visible")
        await page.evaluate(
            """() => {
              const draft = document.createElement("span");
              draft.className = "draft";
              draft.textContent = "what may still change";
              document.querySelector("#paragraphs").append(draft);
            }"""
        )
        grounds = set()
        for scheme in ("light", "dark"):
            # A colour that is on its way to another one is neither.
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            for chosen in ("body", ".quiet", ".primary", ".chip-note", ".link", "h3", "#note-text"):
                contrast = await page.locator(chosen).first.evaluate(CONTRAST)
                assert contrast >= 4.5, (scheme, chosen, contrast)
            assert await page.locator(".draft").evaluate(CONTRAST) >= 4.5
            await page.screenshot(path=tmp_path / f"{scheme}.png")
        assert len(grounds) == 2


@pytest.mark.long
@pytest.mark.browser
async def test_spoilt_settings_are_ignored_and_a_vanished_microphone_is_explained(server):
    async with browsing(server.url, settings="nonsense") as watched:
        page = watched.page
        for kept in (None, "null", '{"pauseMs": "<b>", "theme": 7, "x": 1}'):
            if kept:
                await page.evaluate("(kept) => { localStorage.voxlive = kept; }", kept)
                await page.reload()
            await page.click("#open-settings")
            assert await page.input_value("#pause") == "500"
            assert await page.input_value("[name=theme]") == "system"
        gone = json.dumps({**PLAIN, "source": "0123456789abcdef"})
        await page.evaluate("(kept) => { localStorage.voxlive = kept; }", gone)
        await page.reload()
        await page.wait_for_selector("body[data-toggle]")
        await page.click("#toggle")
        await state_is(page, "error")
        title = await page.inner_text("#notice-title")
        assert title == "The chosen microphone is not there"


@pytest.mark.endurance
@pytest.mark.browser
async def test_refused_microphone_is_explained(server):
    async with browsing(server.url, granted=False) as watched:
        await watched.page.click("#toggle")
        await state_is(watched.page, "error")
        assert await watched.page.inner_text("#notice-title") == (
            "The microphone is blocked for this page"
        )
        assert "address bar" in await watched.page.inner_text("#notice-steps")
        assert await watched.page.is_enabled("#toggle")


@pytest.mark.browser
async def test_missing_microphone_is_explained(server):
    async with browsing(server.url, device=False) as watched:
        await watched.page.click("#toggle")
        await state_is(watched.page, "error")
        assert await watched.page.inner_text("#notice-title") == "No microphone was found"


@pytest.mark.endurance
@pytest.mark.browser
async def test_insecure_origin_is_explained(server):
    port = urlsplit(server.url).port
    rule = "--host-resolver-rules=MAP voxlive.example 127.0.0.1"
    async with browsing(f"http://voxlive.example:{port}", args=(rule,)) as watched:
        page = watched.page
        assert not await page.evaluate("isSecureContext")
        steps = await page.inner_text("#notice-steps")
        assert "plain http from voxlive.example" in steps
        assert "Start the server with --https" in steps
        assert f"https://voxlive.example:{port}" in steps
        assert f"http://localhost:{port}" in steps
        assert f"ssh -L {port}:localhost:{port} voxlive.example" in steps
        await page.click("#notice-close")
        await page.click("#toggle")
        assert await page.is_visible("#notice")
