"""What exceeds a limit is refused in each protocol's own form, and other sessions go on."""

import json
import math

import pytest
from support.asgi import AsgiSocket, running
from support.keys import KEYS, LIVE, bearer, every_protocol, let_in, url

from voxlive.web.access.access import SessionDeadline
from voxlive.web.access.keys import Key, Limits, digest

OTHER = KEYS["files"]


@every_protocol
async def test_one_session_beyond_the_limit_of_a_key_is_refused(path):
    hall = Key("hall", digest(LIVE), limits=Limits(sessions=1))
    async with running(hall, Key("kitchen", digest(OTHER))) as server:
        async with server.dial(url(path), headers=bearer(LIVE)) as first:
            code, said = await server.refused(url(path), headers=bearer(LIVE))
            assert code in (429, 4429)
            assert "1 sessions" in json.dumps(said)
            posted = await server.http.post("/v1/listen", headers=bearer(LIVE))
            assert posted.status_code == 429
            assert posted.json()["err_code"] == "TOO_MANY_REQUESTS"
            assert int(posted.headers["retry-after"]) > 0
            assert await let_in(server, path, headers=bearer(OTHER))
            assert first.code is None
        assert await let_in(server, path, headers=bearer(LIVE))


@every_protocol
async def test_requests_beyond_the_rate_are_refused_with_retry_after(path):
    async with running(limits=Limits(rate=1)) as server:
        assert await let_in(server, path)
        async with server.dial(url(path)) as talk:
            await talk.over.wait()
        code, said = talk.refusal
        assert code in (429, 4429)
        assert "too many" in json.dumps(said)
        if talk.status:
            assert 0 < int(talk.headers["retry-after"]) <= 60
        answer = await server.http.get("/v1/models")
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert (await server.http.get("/health")).status_code == 200
        assert server.access.errors["rate_limit_exceeded", "/v1/models"] == 1


@every_protocol
async def test_a_message_over_the_limit_closes_with_1009(path):
    async with running(limits=Limits(message_kb=1)) as server:
        async with server.dial(url(path)) as talk:
            talk.send("x" * 1001)
            await talk.over.wait()
        assert talk.code == 1009
        assert "1000 bytes" in json.dumps(talk.said[-1])


async def test_an_upload_over_the_limit_is_refused_whether_declared_or_not():
    async def pieces():
        for _ in range(2):
            yield bytes(600)

    async with running(limits=Limits(upload_mb=0.001)) as server:
        for content in (bytes(1001), pieces()):
            posted = await server.http.post("/v1/listen", content=content)
            assert (posted.status_code, posted.json()["err_code"]) == (413, "PAYLOAD_TOO_LARGE")
        posted = await server.http.post("/v1/audio/transcriptions", files={"file": bytes(1001)})
        assert (posted.status_code, posted.json()["error"]["code"]) == (413, "too_big")


SILENCE = bytes(3200)
APPEND = '{"type": "%s", "audio": "' + "AAAA" * 800 + '"}'
AUDIO = {
    "/v1/live": SILENCE,
    "/asr": SILENCE,
    "/v1/realtime": APPEND % "input_audio_buffer.append",
    "/v1/audio/transcriptions/realtime": APPEND % "input_audio.append",
    "/v1/listen": SILENCE,
    "/v2/listen": SILENCE,
    "/ws/live-listener": SILENCE,
}
FIRST = {
    "/v1/live": '{"type": "start", "format": "s16le"}',
    "/ws/live-listener": '{"type": "start", "session_id": "a", "sample_rate": 16000, '
    '"format": "pcm_s16le", "channels": 1}',
}


async def ended(path: str, limits: Limits, *frames: str | bytes) -> AsgiSocket:
    """A connection whose client sends these frames, then waits for the end."""
    async with running(limits=limits) as server, server.dial(url(path)) as talk:
        for frame in frames:
            talk.send(frame)
        await talk.over.wait()
    return talk


# After its last words each protocol closes as its clients know it; Deepgram's idle rule is its own.
ENDED = {"a session may last": {1001}, "there was no audio": {1008, 1011}}


def count_messages(talk: AsgiSocket, words: str) -> int:
    """In how many messages it is said."""
    return sum(words in json.dumps(message) for message in talk.said)


@every_protocol
@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(session_minutes=0.003), "a session may last"),
        (Limits(idle_s=0.15), "there was no audio"),
    ],
)
async def test_session_limits_end_a_session_gracefully(path, opened, limits, words):
    first = [FIRST[path]] if path in FIRST else []
    talk = await ended(path, limits, *first, *[AUDIO[path]] * 5 if opened else ())
    assert talk.code in ENDED[words]
    assert count_messages(talk, words) == 1, talk.said


@pytest.mark.parametrize("limits", [Limits(session_minutes=0.003), Limits(idle_s=0.15)])
async def test_a_stopped_session_reports_no_limit(limits):
    frames = (FIRST["/v1/live"], SILENCE, '{"type": "stop"}')
    talk = await ended("/v1/live", limits, *frames)
    assert not any(count_messages(talk, words) for words in ENDED)
    assert talk.code == 1000


def test_the_deadline_follows_the_audio_and_the_length():
    deadline = SessionDeadline(Limits(session_minutes=1, idle_s=20), 100.0)
    assert deadline.remaining(100.0)[0] == 20
    deadline.on_audio(130.0)
    wait_s, end = deadline.remaining(131.0)
    assert (wait_s, end.code) == (19, "idle")
    deadline.on_audio(150.0)
    wait_s, end = deadline.remaining(150.0)
    assert (wait_s, end.code) == (10, "session_expired")
    assert deadline.remaining(161.0)[0] < 0


def test_without_limits_there_is_no_deadline():
    assert SessionDeadline(Limits(), 0.0).remaining(1e9)[0] == math.inf
