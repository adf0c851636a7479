"""A phone in the same network: the page over https with the certificate that was made at start."""

import re
import ssl
from urllib.parse import urlsplit

import pytest
from support.browser import browsing, state_is
from support.clips import clip
from support.server import serving
from support.wire import START, dial, receive, send

pytestmark = pytest.mark.asyncio(loop_scope="session")

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
# A name that is not this machine's, as a phone has to use one: localhost is secure without https.
NAME = "voxlive.example"
ELSEWHERE = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
ACCEPTED = "--ignore-certificate-errors"


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    args = ("--https", "--allow-host", NAME, "--max-sessions", "2")
    with serving(*args, cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.mark.long
@pytest.mark.browser
async def test_a_phone_records_over_a_certificate_made_here(secure, tmp_path):
    spoken = clip("doctor")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    url = f"https://{NAME}:{urlsplit(secure.url).port}"
    flags = (ELSEWHERE, ACCEPTED)
    async with browsing(url, microphone=wav, args=flags, **PHONE) as watched:
        page = watched.page
        assert await page.evaluate("isSecureContext")
        assert not await page.is_visible("#notice")
        await page.tap("#toggle")
        assert await state_is(page, "listening", "error") == "listening"
        await page.wait_for_function(
            "(last) => document.querySelector('#paragraphs').textContent.includes(last)",
            arg="afternoon",
        )
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.tap("#toggle")
        assert await state_is(page, "stopped", "error") == "stopped"
        said = re.findall(r"[a-z']+", (await page.inner_text("#paragraphs p")).lower())
        assert {"doctor", "afternoon"} <= set(said)
        assert any(request.startswith(f"wss://{NAME}") for request in watched.requests)


async def test_programs_trust_it_by_its_file(secure):
    assert secure.url.startswith("https://127.0.0.1:")
    assert secure.health()["status"] == "ok"
    async with dial(f"{secure.ws}/v1/live", ssl=secure.tls) as socket:
        await send(socket, START)
        assert (await receive(socket))["type"] == "ready"
    with pytest.raises(ssl.SSLCertVerificationError):
        async with dial(f"{secure.ws}/v1/live"):
            pass
