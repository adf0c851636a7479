"""The page's resampler, run in the browser and measured here."""

import base64

import numpy as np
import pytest
from support.browser import without_the_page

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

RATE = 16_000
RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]
BLOCK = 128

# Runs a list of tones (Hz) of n samples through one resampler each, in blocks; base64 float32.
TONES = """async ([rate, n, block, tones]) => {
  const { Resampler } = await import("/static/resampler.js");
  return tones.map((hertz) => {
    const resampler = new Resampler(rate, 16000);
    const parts = [];
    const output = new Float32Array(resampler.room() + resampler.room(block));
    for (let from = 0; from < n; from += block) {
      const input = new Float32Array(Math.min(block, n - from));
      for (let i = 0; i < input.length; i++) {
        input[i] = Math.sin((2 * Math.PI * hertz * (from + i)) / rate);
      }
      parts.push(output.slice(0, resampler.process(input, output)));
    }
    parts.push(output.slice(0, resampler.flush(output)));
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
    let at = 0;
    for (const part of parts) {
      bytes.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
      at += part.byteLength;
    }
    return bytes.toBase64?.() ?? btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
  });
}"""

COUNTS = """async ([rate, n]) => {
  const { Resampler } = await import("/static/resampler.js");
  const resampler = new Resampler(rate, 16000);
  const input = new Float32Array(128);
  const output = new Float32Array(resampler.room() + resampler.room(128));
  let total = 0;
  for (let left = n; left > 0; left -= 128) {
    total += resampler.process(left < 128 ? input.subarray(0, left) : input, output);
  }
  const before = total;
  return [before, before + resampler.flush(output)];
}"""


async def tones(page, rate, n, hertz, block=BLOCK):
    texts = await page.evaluate(TONES, [rate, n, block, list(hertz)])
    return [np.frombuffer(base64.b64decode(text), "<f4") for text in texts]


def rms(x):
    """Of the middle, where the edges of the tone are not heard any more."""
    return float(np.sqrt(np.mean(np.square(x[len(x) // 4 : -len(x) // 4].astype(np.float64)))))


async def test_tones_pass_or_vanish(server):
    async with without_the_page(server.url) as watched:
        for rate in RATES:
            edge = min(rate, RATE) / 2
            passed = [0.01 * edge, 0.1 * edge, 0.5 * edge, 0.89 * edge]
            outputs = await tones(watched.page, rate, rate // 5, passed)
            for hertz, output in zip(passed, outputs, strict=True):
                expected = np.sin(2 * np.pi * hertz * np.arange(len(output)) / RATE)
                middle = slice(len(output) // 4, -len(output) // 4)
                assert np.abs(output - expected)[middle].max() < 2e-3, (rate, hertz)
            stopped = np.arange(1.02, rate / 2 / edge, 0.23) * edge
            for hertz, output in zip(
                stopped, await tones(watched.page, rate, rate // 5, stopped), strict=True
            ):
                assert 20 * np.log10(rms(output) / np.sqrt(0.5)) < -60, (rate, hertz)


@pytest.mark.parametrize(
    ("rate", "minutes"),
    [(44_100, 1), (48_000, 1), pytest.param(44_100, 10, marks=pytest.mark.endurance)],
)
async def test_no_drift(server, rate, minutes):
    async with without_the_page(server.url) as watched:
        n = rate * 60 * minutes + 77
        before, total = await watched.page.evaluate(COUNTS, [rate, n])
        assert total == n * RATE // rate
        assert 0 <= total - before < 0.01 * RATE


async def test_cuts_leave_no_trace(server):
    async with without_the_page(server.url) as watched:
        n = 44_100
        (whole,) = await tones(watched.page, 44_100, n, [1000], n)
        for block in (1, 127, 128, 1024, 5000):
            (cut,) = await tones(watched.page, 44_100, n, [1000], block)
            assert np.array_equal(cut, whole), block
