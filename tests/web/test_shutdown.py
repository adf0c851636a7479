import asyncio
import signal

from support.clips import clip
from support.server import serving
from support.wire import START, dial, listen, receive, receive_until, s16le, send, text_of_lines


async def test_sigterm_tells_drains_and_closes_every_client():
    speech = s16le(clip("doctor").samples)[: 32_000 * 4]
    with serving("--max-sessions", "2") as server:
        async with (
            dial(f"{server.ws}/v1/live") as native,
            dial(f"{server.ws}/asr") as theirs,
            dial(f"{server.ws}/v1/live") as waiting,
        ):
            await send(native, START, speech)
            await send(theirs, speech)
            await receive_until(native, "speech_started")
            await receive_until(theirs, "config")
            await receive(theirs)
            server.process.send_signal(signal.SIGTERM)
            heard, asr, idle = await asyncio.gather(listen(native), listen(theirs), listen(waiting))
        assert heard.errors == ["shutting_down"]
        assert heard.of("error")[0]["fatal"] is False
        [done] = heard.of("done")
        assert "doctor" in done["text"]
        assert heard.code == 1012
        assert asr.errors == ["shutting_down"]
        assert text_of_lines(asr.of(None)[-1]["lines"]).split() == done["text"].split()
        assert asr.messages[-1] == {"type": "ready_to_stop"}
        assert idle.code == 1012
        assert server.process.wait(30) == 0


async def test_a_second_server_can_have_the_port_at_once():
    with serving("--max-sessions", "1") as first:
        port = first.url.rsplit(":", 1)[1]
    with serving("--max-sessions", "1", "--port", port) as second:
        assert second.url == first.url
        assert second.health()["status"] == "ok"
