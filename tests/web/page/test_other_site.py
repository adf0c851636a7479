"""A page of another site uses the API from a browser: REST, server-sent events, WebSockets."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from support.browser import browsing
from support.clips import clip
from support.server import serving
from support.wire import s16le

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

_PAGE = b"<!doctype html><meta charset=utf-8><link rel=icon href=data:,><h1>another site</h1>"
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE)
)

# What each way to the server says, as far as a page can see it; "refused" where it sees nothing.
_USE = """async ([url, key, file, speech]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const headers = { authorization: `Bearer ${key}`, "x-stainless-lang": "js" };
  const seen = async (asking) => asking.catch(() => "refused");
  const form = new FormData();
  form.append("file", new Blob([bytes(file)]), "yes.flac");
  const rest = await seen(
    fetch(`${url}/v1/audio/transcriptions`, { method: "POST", headers, body: form })
      .then(async (answer) => (await answer.json()).text),
  );
  const error = await seen(
    fetch(`${url}/v1/models`, { headers: { ...headers, authorization: "Bearer wrong" } })
      .then(async (answer) => [
        answer.status, (await answer.json()).error.code, !!answer.headers.get("x-request-id"),
      ]),
  );
  const socket = new WebSocket(
    `${url.replace("http", "ws")}/v1/live?captions=elsewhere`, ["bearer", key],
  );
  const live = { text: "", events: [] };
  await new Promise((over) => {
    socket.onopen = () => socket.send(JSON.stringify({ type: "start", format: "s16le" }));
    socket.onclose = () => over();
    socket.onmessage = async ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "ready") {
        live.sse = (async () => {
          const answer = await fetch(`${url}/captions/elsewhere`, { headers });
          socket.send(bytes(speech));
          socket.send(JSON.stringify({ type: "stop" }));
          return answer.text();
        })();
      }
      if (message.type === "done") live.text = message.text;
    };
  });
  const events = live.sse ? await seen(live.sse) : await seen(
    fetch(`${url}/captions/elsewhere`, { headers }).then((answer) => answer.text()),
  );
  return { rest, error, live: live.text || "refused", events };
}"""


@asynccontextmanager
async def another_site() -> AsyncIterator[str]:
    """A site of its own, with one page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_ANSWER)
        await writer.drain()
        writer.close()

    site = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}"
    finally:
        site.close()


KEY = "a-key-for-another-site"


async def use(site: str, server) -> dict:
    speech = base64.b64encode(s16le(clip("doctor").samples)).decode()
    file = base64.b64encode(clip("yes").path.read_bytes()).decode()
    async with browsing(site, ready="h1") as watched:
        watched.others.add(urlsplit(server.url).netloc)
        watched.expected += ["Access-Control-Allow-Origin", "ERR_FAILED", "WebSocket", "401"]
        return await watched.page.evaluate(_USE, [server.url, KEY, file, speech])


@pytest.mark.long
async def test_an_allowed_site_uses_all_of_it():
    async with another_site() as site:
        with serving("--allow-origin", site, key=KEY) as server:
            seen = await use(site, server)
    assert "Yes" in seen["rest"]
    assert seen["error"] == [401, "invalid_api_key", True]
    assert "doctor" in seen["live"]
    kinds = [line for line in seen["events"].splitlines() if line.startswith("event: ")]
    assert (kinds[0], kinds[-1]) == ("event: snapshot", "event: done")
    told = [json.loads(line[6:]) for line in seen["events"].splitlines() if line[:6] == "data: "]
    assert "doctor" in " ".join(data.get("text", "") for data in told)


async def test_any_other_site_gets_nothing():
    async with another_site() as site:
        with serving("--allow-origin", "http://127.0.0.1:1", key=KEY) as server:
            seen = await use(site, server)
    assert set(seen.values()) == {"refused"}
