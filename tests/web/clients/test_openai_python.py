"""OpenAI's own Python client against this server: real speech, real sockets, words and shapes."""

import base64
import signal

import pytest
import soxr
from openai import AsyncOpenAI, BadRequestError, OpenAI
from support.clips import clip
from support.encode import encode
from support.scoring import spelt
from support.server import serving
from support.wire import START, dial, live, receive, s16le, send

RATE = 24_000
TRANSCRIPTION = "conversation.item.input_audio_transcription"
COMPLETED = f"{TRANSCRIPTION}.completed"
TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    f"{TRANSCRIPTION}.delta",
    COMPLETED,
    "conversation.item.done",
]
INTENT = {"intent": "transcription"}


def pcm24(name: str) -> bytes:
    """A clip in the default format: 16 bits, 24 kHz."""
    return s16le(soxr.resample(clip(name).samples, 16_000, RATE).clip(-1, 1 - 2**-15))


def session(**settings) -> dict:
    transcription = {"model": "gpt-4o-transcribe", "language": "en"}
    return {
        "type": "transcription",
        "audio": {"input": {"transcription": transcription, **settings}},
    }


def encoded(audio: bytes, chunk: int = 4800) -> list[str]:
    return [base64.b64encode(audio[at : at + chunk]).decode() for at in range(0, len(audio), chunk)]


async def play(connection, audio: bytes) -> None:
    for piece in encoded(audio):
        await connection.input_audio_buffer.append(audio=piece)


async def until(connection, kind: str, times: int = 1) -> list:
    """Events up to one of a kind, which is the last of the list; never an error on the way."""
    events = []
    while sum(event.type == kind for event in events) < times:
        events.append(await connection.recv())
        assert events[-1].type in (kind, "session.created") or events[-1].type != "error", events[
            -1
        ]
    return events


def of(kind: str, events) -> list:
    return [event for event in events if event.type == kind]


def check_items(events) -> list[str]:
    """The transcripts, after checking that each is its item's deltas and its item follows suit."""
    deltas: dict[str, str] = {}
    for delta in of(f"{TRANSCRIPTION}.delta", events):
        deltas[delta.item_id] = deltas.get(delta.item_id, "") + delta.delta
    committed = of("input_audio_buffer.committed", events)
    order = [event.item_id for event in committed]
    assert [event.previous_item_id for event in committed] == [None, *order[:-1]]
    completed = of(COMPLETED, events)
    assert [event.item_id for event in completed] == order[: len(completed)]
    for event in completed:
        assert event.transcript == deltas.get(event.item_id, "")
        assert event.usage.type == "duration"
        assert event.content_index == 0
    return [event.transcript for event in completed]


async def native(server, audio: bytes, **start) -> str:
    """The native protocol's text of the same audio."""
    [done] = (await live(server.ws, audio, **start)).of("done")
    return done["text"]


@pytest.fixture
def client(server) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1")


async def test_a_turn_with_its_words(server, client):
    audio = pcm24("doctor")
    async with client.realtime.connect(extra_query=INTENT) as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        assert created.session.id.startswith("sess_")
        await connection.session.update(session=session())
        updated = await connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.type == "transcription"
        effective = updated.session.audio.input
        assert (effective.format.type, effective.format.rate) == ("audio/pcm", RATE)
        assert effective.transcription.language == "en"
        assert effective.turn_detection.type == "server_vad"
        await play(connection, audio)
        events = await until(connection, "conversation.item.done")
    assert [event.type for event in events] == TURN
    assert len({event.item_id for event in events if "item_id" in event.to_dict()}) == 1
    [text] = check_items(events)
    assert {"doctor", "call", "afternoon", "results"} <= set(spelt(text))
    assert text == await native(server, audio, rate=RATE)
    started, stopped = events[0], events[1]
    [sentence] = clip("doctor").sentences
    assert started.audio_start_ms == pytest.approx(1000 * sentence.start - 300, abs=400)
    assert stopped.audio_end_ms == pytest.approx(1000 * sentence.end + 500, abs=300)
    assert events[-1].item.content[0].transcript == text


@pytest.mark.conforms(
    "OpenAI",
    "`?intent=transcription`, `?model=`, neither",
    "one transcription session each; a session of type `realtime` too",
)
async def test_words_of_a_turn_come_before_the_next_turn_is_sent(server):
    first, second = clip("train").sentences
    cut = int((first.end + second.start) / 2 * RATE) * 2
    audio = pcm24("train")
    client = AsyncOpenAI(api_key="any", websocket_base_url=f"{server.ws}/v1")
    async with client.realtime.connect(model="gpt-realtime", extra_query=INTENT) as connection:
        # No client has to wait for session.created before it sends.
        vad = {"type": "server_vad", "silence_duration_ms": 350, "prefix_padding_ms": 600}
        await connection.session.update(session=session(turn_detection=vad))
        await play(connection, audio[:cut] + bytes(RATE))
        events = await until(connection, COMPLETED)
        assert {"train", "airport", "leaves"} <= set(spelt(events[-1].transcript))
        await play(connection, audio[cut:])
        events += await until(connection, COMPLETED)
    texts = check_items(events)
    assert {"please", "ticket", "bags"} <= set(spelt(texts[1]))


def test_the_synchronous_client(server):
    client = OpenAI(api_key="any", base_url=f"{server.url}/v1")
    with client.realtime.connect(extra_query=INTENT) as connection:
        connection.session.update(session=session(noise_reduction={"type": "near_field"}))
        for piece in encoded(pcm24("market")):
            connection.input_audio_buffer.append(audio=piece)
        events = []
        while len(of("conversation.item.done", events)) < 2:
            events.append(connection.recv())
    first, second = check_items(events)
    assert {"bought", "bread", "bottle", "milk", "market"} <= set(spelt(first))
    assert {"total", "less", "than", "20"} <= set(spelt(second))


async def test_turns_of_the_client(server, client):
    doctor, train = pcm24("doctor"), pcm24("train")
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.session.update(session=session(turn_detection=None))
        *_, updated = await until(connection, "session.updated")
        assert updated.session.audio.input.turn_detection is None
        await connection.input_audio_buffer.commit(event_id="too-soon")
        refused = await connection.recv()
        assert refused.type == "error"
        assert refused.error.code == "input_audio_buffer_commit_empty"
        assert refused.error.event_id == "too-soon"
        await play(connection, doctor)
        await connection.input_audio_buffer.commit()
        await play(connection, train)
        await connection.input_audio_buffer.commit()
        events = await until(connection, "conversation.item.done", times=2)
    assert not of("input_audio_buffer.speech_started", events)
    first, second = check_items(events)
    assert {"doctor", "afternoon", "results"} <= set(spelt(first))
    assert {"train", "airport", "ticket", "bags"} <= set(spelt(second))
    seconds = [event.usage.seconds for event in of(COMPLETED, events)]
    assert seconds == pytest.approx([len(doctor) / RATE / 2, len(train) / RATE / 2], abs=0.01)


@pytest.mark.parametrize("turn_detection", [None, {"type": "server_vad"}])
async def test_cleared_audio_is_never_transcribed(client, turn_detection):
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.session.update(session=session(turn_detection=turn_detection))
        sentence = clip("doctor").sentences[0]
        await play(connection, pcm24("doctor")[: int((sentence.end - 0.5) * RATE) * 2])
        await connection.input_audio_buffer.clear()
        events = await until(connection, "input_audio_buffer.cleared")
        await play(connection, pcm24("message") + bytes(2 * RATE))
        if turn_detection is None:
            await connection.input_audio_buffer.commit()
        events += await until(connection, COMPLETED)
    [committed] = of("input_audio_buffer.committed", events)
    [completed] = of(COMPLETED, events)
    assert completed.item_id == committed.item_id
    words = set(spelt(completed.transcript))
    assert {"leave", "message", "telephone", "number"} <= words
    assert not {"doctor", "call", "afternoon"} & words


async def test_a_commit_in_mid_speech_and_one_of_an_empty_buffer(client):
    sentence = clip("doctor").sentences[0]
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.session.update(session=session())
        await play(connection, pcm24("doctor")[: int(sentence.end * RATE) * 2])
        await connection.input_audio_buffer.commit()
        events = await until(connection, "conversation.item.done")
        await connection.input_audio_buffer.commit()
        await connection.input_audio_buffer.commit()
        await play(connection, pcm24("message"))
        events += await until(connection, "conversation.item.done")
    first, second = check_items(events)
    assert {"doctor", "results"} <= set(spelt(first))
    assert {"message", "tone"} <= set(spelt(second))


async def test_a_final_commit_of_silence_is_answered(client):
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await play(connection, bytes(2 * RATE))
        await connection.input_audio_buffer.commit()
        events = await until(connection, COMPLETED)
    assert events[-1].transcript == ""


async def test_an_update_in_mid_speech_loses_nothing(client):
    """Half a sentence with the detector's turns at 24 kHz, the rest with the client's at 16 kHz."""
    cut = 2.0
    before = pcm24("doctor")[: int(cut * RATE) * 2]
    after = s16le(clip("doctor").samples)[int(cut * 16_000) * 2 :]
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.session.update(session=session())
        await play(connection, before)
        slower = {"type": "audio/pcm", "rate": 16_000}
        await connection.session.update(session=session(format=slower, turn_detection=None))
        await play(connection, after)
        await connection.input_audio_buffer.commit()
        events = await until(connection, COMPLETED, times=2)
    first, second = check_items(events)
    assert {"the", "doctor", "will", "call"} <= set(spelt(first))
    assert "results" in spelt(second)
    seconds = sum(event.usage.seconds for event in of(COMPLETED, events))
    assert seconds == pytest.approx(clip("doctor").duration, abs=0.4)


@pytest.mark.parametrize(
    ("format_", "start"),
    [
        ({"type": "audio/pcm", "rate": 16_000}, {"rate": 16_000}),
        ({"type": "audio/pcm", "rate": 44_100}, {"rate": 44_100}),
        ({"type": "audio/pcmu"}, {"rate": 8000, "format": "mulaw"}),
        ({"type": "audio/pcma"}, {"rate": 8000, "format": "alaw"}),
    ],
)
async def test_any_rate_and_telephone_encodings(server, client, format_, start):
    speech = clip("phone").samples
    if "format" in start:
        audio = encode(speech, start["format"], f"pcm_{start['format']}", rate=8000)
    else:
        audio = s16le(soxr.resample(speech, 16_000, start["rate"]).clip(-1, 1 - 2**-15))
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.session.update(session=session(format=format_))
        await play(connection, audio)
        events = await until(connection, COMPLETED)
    [text] = check_items(events)
    assert text == await native(server, audio, **start)
    assert {"meet", "you", "station"} <= set(spelt(text))


@pytest.mark.endurance
async def test_semantic_vad_ends_turns_by_what_was_said(client):
    """An item has all of its turn, however many pauses are in it; its words come behind its end."""
    async with client.realtime.connect(extra_query=INTENT) as connection:
        vad = {"type": "semantic_vad", "eagerness": "high"}
        await connection.session.update(session=session(turn_detection=vad))
        *_, updated = await until(connection, "session.updated")
        in_force = updated.session.audio.input.turn_detection
        assert (in_force.type, in_force.eagerness) == ("semantic_vad", "high")
        await play(connection, pcm24("market") + bytes(3 * 2 * RATE))
        events = await until(connection, COMPLETED)
        while "total" not in spelt(" ".join(check_items(events))):
            events += await until(connection, COMPLETED)
    assert "bread" in spelt(check_items(events)[0])
    stopped = of("input_audio_buffer.speech_stopped", events)
    assert [event.type for event in events].count(COMPLETED) == len(stopped) <= 2
    assert all(0 <= event.audio_end_ms <= 10_100 for event in stopped)


async def test_the_beta(server):
    client = AsyncOpenAI(api_key="any", websocket_base_url=f"{server.ws}/v1")
    connecting = client.beta.realtime.connect(
        model="gpt-4o-transcribe", extra_query=INTENT, extra_headers={"OpenAI-Beta": "realtime=v1"}
    )
    async with connecting as connection:
        await connection.transcription_session.update(
            session={
                "input_audio_format": "pcm16",
                "input_audio_transcription": {"model": "whisper-1", "language": "en"},
                "turn_detection": {"type": "server_vad", "threshold": 0.5},
                "input_audio_noise_reduction": {"type": "far_field"},
            }
        )
        *_, updated = await until(connection, "transcription_session.updated")
        assert updated.session.input_audio_format == "pcm16"
        assert updated.session.turn_detection.silence_duration_ms == 500
        await play(connection, pcm24("doctor"))
        await connection.input_audio_buffer.commit()
        events = await until(connection, COMPLETED)
    assert of("conversation.item.created", events)
    assert not of("conversation.item.added", events)
    [text] = check_items(events)
    assert {"doctor", "results"} <= set(spelt(text))


async def test_errors_are_reported_and_the_session_goes_on(client):
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.recv()
        await connection.session.update(
            session=session(transcription={"language": "tlh"}), event_id="klingon"
        )
        refused = await connection.recv()
        assert refused.type == "error"
        assert refused.error.event_id == "klingon"
        assert refused.error.param == "session.audio.input.transcription.language"
        await connection.response.create()
        assert (await connection.recv()).type == "error"
        await play(connection, pcm24("yes"))
        events = await until(connection, COMPLETED)
        assert "yes" in spelt(events[-1].transcript)


@pytest.mark.conforms(
    "OpenAI's keys",
    "`session`, `expires_after`",
    "a key that expires; the session is checked, shown, and in force in every session "
    "opened with it",
)
async def test_a_client_secret_connects_a_browser(server, client):
    vad = {"type": "server_vad", "threshold": 0.7}
    secret = await client.realtime.client_secrets.create(
        session=session(turn_detection=vad),
        expires_after={"anchor": "created_at", "seconds": 60},
    )
    assert secret.value.startswith("ek_")
    assert secret.expires_at > 1_700_000_000
    assert secret.session.type == "transcription"
    assert secret.session.audio.input.turn_detection.threshold == 0.7
    offered = ["realtime", f"openai-insecure-api-key.{secret.value}"]
    async with dial(
        f"{server.ws}/v1/realtime?intent=transcription", subprotocols=offered
    ) as socket:
        assert socket.subprotocol == "realtime"
        assert (await receive(socket))["type"] == "session.created"
    for bad in ({"session": {"audio": {"input": {"turn_detection": 1}}}}, {"expires_after": 5}):
        with pytest.raises(BadRequestError) as refused:
            await client.realtime.client_secrets.create(**bad)
        assert refused.value.code == "invalid_value"


@pytest.mark.endurance
async def test_a_full_server_is_an_error_and_closes_with_1013(small):
    client = AsyncOpenAI(api_key="any", base_url=f"{small.url}/v1")
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        await receive(first)
        async with client.realtime.connect(extra_query=INTENT) as connection:
            refused = await connection.recv()
            assert refused.error.code == "server_full"
            await connection._connection.wait_closed()
            assert connection._connection.close_code == 1013
    await small.until(in_use=0)
    # A client that has sent no audio takes no slot.
    async with client.realtime.connect(extra_query=INTENT) as idle:
        await idle.recv()
        assert not small.health()["in_use"]
        await play(idle, pcm24("yes"))
        await until(idle, COMPLETED)


@pytest.mark.endurance
async def test_shutdown_sends_the_last_words_and_closes_with_1012():
    with serving("--max-sessions", "1") as server:
        client = AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1")
        async with client.realtime.connect(extra_query=INTENT) as connection:
            await play(connection, pcm24("doctor")[: 4 * RATE * 2])
            await until(connection, "input_audio_buffer.speech_started")
            server.process.send_signal(signal.SIGTERM)
            events = await until(connection, COMPLETED)
            assert "doctor" in spelt(events[-1].transcript)
            await connection._connection.wait_closed()
            assert connection._connection.close_code == 1012
