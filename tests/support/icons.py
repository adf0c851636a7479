"""Draw the page's icons from favicon.svg: needs Chromium.

Run by hand (``PYTHONPATH=tests python tests/support/icons.py``) when that is to change.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from playwright.async_api import async_playwright
from support.browser import chromium

STATIC = Path(__file__).parents[2] / "voxlive" / "web" / "static"
SIZES = {"180": (180, True), "192": (192, False), "512": (512, False), "maskable-512": (512, True)}
"""The side in pixels, and whether the system cuts the corners: then the ground fills them."""


async def main() -> None:
    drawing = (STATIC / "favicon.svg").read_text()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium())
        for name, (side, filled) in SIZES.items():
            page = await browser.new_page(viewport={"width": side, "height": side})
            svg = drawing.replace("<svg ", f'<svg width="{side}" height="{side}" ', 1)
            if filled:
                # What must not be cut off lies within four fifths (W3C, maskable icons).
                svg = svg.replace(' rx="9"', "").replace(
                    'viewBox="0 0 32 32"', 'viewBox="-2 -2 36 36"'
                )
                svg = svg.replace(
                    '<rect width="32" height="32"', '<rect x="-2" y="-2" width="36" height="36"'
                )
            await page.set_content(
                f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg}"
            )
            await page.screenshot(path=STATIC / "icons" / f"{name}.png", omit_background=True)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
