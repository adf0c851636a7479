"""The main path in Firefox.

Share, start, speak, pause, a killed server, a reload, continue, correct, export; and a reader.
"""

import asyncio
import json

import httpx
import pytest
from support.browser import PLAIN
from support.clips import clip
from support.firefox import firefox, firefox_with, sound_card
from support.restarting import KILL_SERVER, restarted
from support.scoring import spelt
from support.server import AT_PAUSES

STATE = "document.body.dataset.state"
WORDS = "document.querySelector('#paragraphs').textContent.toLowerCase()"
CLOCK = "document.querySelector('#detail').textContent.split(' · ')[0]"
SURE = {
    "doctor",
    "call",
    "afternoon",
    "results",
    "bought",
    "toast",
    "milk",
    "market",
    "total",
    "yes",
}
# Where a word of the transcript stands.
PLACE = """(() => {
  for (const p of document.querySelectorAll(".paragraph p")) {
    const at = p.firstChild.data.indexOf("WORD");
    if (at < 0) continue;
    const range = document.createRange();
    range.setStart(p.firstChild, at);
    range.setEnd(p.firstChild, at + "WORD".length);
    return range.getBoundingClientRect();
  }
})()"""
READ = "document.querySelector('#text').textContent"
ENTER = "\ue007"
VISIBLE = "document.querySelector('{}').checkVisibility()"

pytestmark = pytest.mark.endurance


async def heard(page, state):
    await page.until(f"{STATE} === '{state}'")


async def test_the_main_path_loses_no_word(tmp_path):
    firefox()
    wavs = {
        name: clip(name).write_wav(tmp_path / f"{name}.wav") for name in ("doctor", "market", "yes")
    }
    store = ("--store", str(tmp_path / "store"))
    with restarted(*store, *AT_PAUSES) as running:
        async with sound_card() as card, firefox_with(card, tmp_path) as page:
            await page.open(running.server.url)
            await page.evaluate(f"void (localStorage.voxlive = {json.dumps(PLAIN)!r})")
            await page.reload()
            await page.until("document.querySelector('#engine').dataset.health === 'ok'")

            await page.click("#open-share")
            await page.until(VISIBLE.format("#share-made"))
            link = await page.evaluate("document.querySelector('#share-url').value")
            await page.click("#share-close")
            reader = await page.beside()
            await reader.open(link)
            await reader.until(f"{STATE} === 'waiting'")

            await page.click("#toggle")
            await heard(page, "listening")
            await card.play(wavs["doctor"])
            await page.until(f"{WORDS}.includes('afternoon')")
            await reader.until(f"{READ}.includes('afternoon')")

            await page.click("#pause-sound")
            at = await page.evaluate(CLOCK)
            await card.play(wavs["yes"])
            assert await page.evaluate(CLOCK) == at
            await page.click("#pause-sound")

            speaking = asyncio.create_task(card.play(wavs["market"]))
            await page.until(f"{CLOCK} !== {at!r}")
            await running.suffer(KILL_SERVER)
            await speaking
            await heard(page, "listening")
            await page.until(f"{WORDS}.includes('market')")

            await page.reload()
            await page.until(VISIBLE.format("#continue"))
            await page.click("#continue-go")
            await heard(page, "listening")
            await card.play(wavs["doctor"])
            await page.until(f"{WORDS}.split('afternoon').length > 2")
            await page.click_in(PLACE.replace("WORD", "bread"), times=2)
            await page.until(VISIBLE.format(".correct-text"))
            await page.press(*"toast", ENTER)
            await page.until(f"{WORDS}.includes('toast')")
            await reader.until(f"{READ}.includes('toast')")
            await page.click("#toggle")
            await heard(page, "stopped")
            await reader.until(f"{STATE} === 'ended'")
            read = await reader.evaluate(READ)

            await page.click("#download-open")
            await page.click("[data-format=txt]")
            file = await page.downloaded(".txt")
            shown = await page.evaluate(
                "[...document.querySelectorAll('.paragraph p')].map((p) => p.textContent)"
            )
            marks = await page.evaluate(
                "[...document.querySelectorAll('.mark p')].map((p) => p.textContent)"
            )
        async with httpx.AsyncClient(base_url=running.server.url) as client:
            [one] = (await client.get("/v1/sessions")).json()["sessions"]
            kept = (await client.get(f"/v1/sessions/{one['id']}")).json()
    # One session, in which nothing but the reload is marked; page, file and server have one text.
    assert [mark.split()[0] for mark in marks] == ["Continued"]
    assert " ".join(shown).split() == kept["text"].split()
    assert spelt(read) == spelt(" ".join(shown))
    blocks = file.split("\n\n")
    assert [block.strip() for block in blocks if not block.startswith("[")] == shown
    # Every word that is recognised alike each time, once, in order; and nothing of the pause.
    said = [word for word in spelt(" ".join(shown)) if word in SURE]
    names = ("doctor", "market", "doctor")
    text = " ".join(clip(name).text for name in names).replace("bread", "toast")
    assert said == [word for word in spelt(text) if word in SURE]
