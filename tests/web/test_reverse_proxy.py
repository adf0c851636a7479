"""A server under a root path behind a reverse proxy: the page, HTTP and WebSockets."""

import asyncio
import re

import httpx
import pytest
from support.browser import browsing, state_is
from support.clips import clip
from support.proxy import behind_a_proxy
from support.server import serving
from support.wire import live, s16le

UNKEPT = {"keep": False}  # so that a file asks before what was said goes
PATH = "/voxlive"


@pytest.fixture(scope="module")
def rooted():
    with serving("--root-path", "voxlive/", "--max-sessions", "2") as server:
        yield server


def ws(url: str) -> str:
    return url.replace("http", "ws", 1)


@pytest.mark.long
@pytest.mark.parametrize("strips", [True, pytest.param(False, marks=pytest.mark.endurance)])
async def test_http_and_websockets_work_under_a_root_path(rooted, strips):
    async with behind_a_proxy(rooted.url, PATH, strips=strips) as site:
        async with httpx.AsyncClient(timeout=60) as client:
            assert (await client.get(f"{site}/health")).json()["ready"]
            page, script, lost = await asyncio.gather(
                *(client.get(f"{site}/{path}") for path in ("", "static/app.js", "nowhere"))
            )
            assert (page.status_code, script.status_code, lost.status_code) == (200, 200, 404)
            outside = await client.get(site.removesuffix(PATH) + "/health")
            assert outside.status_code == 404
            file = {"file": clip("yes").path.read_bytes()}
            posted = await client.post(f"{site}/v1/audio/transcriptions", files=file)
            assert "Yes" in posted.json()["text"]
        heard = await live(ws(site), s16le(clip("doctor").samples))
        assert "doctor" in heard.of("done")[0]["text"]


async def test_the_root_path_works_without_the_proxy(rooted):
    async with httpx.AsyncClient(base_url=rooted.url) as client:
        assert (await client.get("/health")).json()["ready"]
        bare = await client.get("/voxlive?engine=x")
        assert bare.is_redirect
        assert bare.headers["location"] == "/voxlive/?engine=x"
        assert (await client.get("/voxlive/")).text == (await client.get("/")).text
        assert (await client.get("/voxlively/health")).status_code == 404


async def test_only_trusted_proxies_set_the_client_and_the_scheme(rooted):
    """A page that came over https is one of this server's if that scheme is believed."""

    async def asked_by_a_page(client, site):
        page = {"origin": site.removesuffix(PATH).replace("http", "https", 1)}
        return (await client.get(f"{site}/health", headers=page)).status_code

    async with httpx.AsyncClient() as client:
        async with behind_a_proxy(rooted.url, PATH) as site:
            assert await asked_by_a_page(client, site) == 200
            moved = await client.get(f"{site}/health/?a=b")
            assert moved.headers["location"] == f"{PATH}/health?a=b"
        with serving("--root-path", PATH, "--forwarded-allow-ips", "10.0.0.0/8, ::1") as server:
            async with behind_a_proxy(server.url, PATH) as site:
                assert await asked_by_a_page(client, site) == 403


@pytest.mark.endurance
@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.usefixtures("browsers")
async def test_the_page_records_and_uploads_under_a_root_path(rooted, tmp_path):
    spoken = clip("doctor")
    wav = spoken.write_wav(tmp_path / "clip.wav")
    async with (
        behind_a_proxy(rooted.url, PATH, forwarded="x-forwarded-proto: http") as site,
        browsing(f"{site}/", microphone=wav, settings=UNKEPT) as watched,
    ):
        page = watched.page
        await page.wait_for_selector('#engine[data-health="ok"]')
        await page.click("#toggle")
        assert await state_is(page, "listening", "error") == "listening"
        await page.wait_for_function(
            "() => document.querySelector('#paragraphs').textContent.includes('afternoon')"
        )
        await page.click("#toggle")
        assert await state_is(page, "stopped", "error") == "stopped"
        assert f"{ws(site)}/v1/live" in [url.partition("?")[0] for url in watched.requests]
        await page.set_input_files("#file", clip("phone").path)
        await page.click("#confirm-yes")
        await page.wait_for_function(
            "() => document.querySelector('#paragraphs').textContent.includes('station')"
        )
        said = re.findall(r"[a-z]+", await page.inner_text("#paragraphs"))
        assert {"front", "station"} <= set(said)
