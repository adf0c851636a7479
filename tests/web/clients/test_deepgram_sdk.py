"""Deepgram's own Python client against this server: real speech, real sockets."""

import asyncio
from functools import partial
from itertools import groupby

import numpy as np
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.errors import BadRequestError
from deepgram.listen.v1.types import (
    ListenV1ConfigureFailure,
    ListenV1Error,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from support.clips import clip, two_people, write_wav
from support.encode import encode
from support.scoring import spelt
from support.wire import START, dial, live, receive, s16le, send

PCM = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16_000}


def environment(server) -> DeepgramClientEnvironment:
    return DeepgramClientEnvironment(
        base=server.url, production=server.ws, agent=server.ws, agent_rest=server.url
    )


@pytest.fixture
def client(server) -> AsyncDeepgramClient:
    return AsyncDeepgramClient(api_key="any", environment=environment(server))


async def text_of(server, name: str) -> str:
    """The native protocol's text of a clip."""
    [done] = (await live(server.ws, s16le(clip(name).samples))).of("done")
    return done["text"]


async def send_all(connection, audio: bytes, *, pace: float | None = None, chunk: int = 3200):
    for at in range(0, len(audio), chunk):
        await connection.send_media(audio[at : at + chunk])
        if pace:
            await asyncio.sleep(chunk / 32_000 / pace)


async def collect(connection) -> list:
    return [message async for message in connection]


def of(kind, messages) -> list:
    return [message for message in messages if isinstance(message, kind)]


def finals(messages) -> list[ListenV1Results]:
    return [result for result in of(ListenV1Results, messages) if result.is_final]


def transcript(result) -> str:
    return result.channel.alternatives[0].transcript


def text(results) -> str:
    return " ".join(filter(None, map(transcript, results)))


async def test_speech_becomes_interim_and_final_results_and_metadata(server, client):
    audio = s16le(clip("market").samples)
    options = {"interim_results": "true", "vad_events": "true", "utterance_end_ms": 1000}
    async with client.listen.v1.connect(**PCM, **options) as connection:
        collecting = asyncio.create_task(collect(connection))
        await send_all(connection, audio, pace=2.0)
        await connection.send_close_stream()
        messages = await collecting
        assert connection._websocket.close_code == 1000
    assert text(finals(messages)) == await text_of(server, "market")
    said = {"bread", "milk", "total"}
    assert said <= set(spelt(text(finals(messages))))
    # Which words are in drafts, and whether they are right, is a matter of how much else runs.
    interims = [r for r in of(ListenV1Results, messages) if not r.is_final]
    assert any(transcript(result) for result in interims)
    speech_finals = [r for r in finals(messages) if r.speech_final and transcript(r)]
    assert len(speech_finals) == 2
    words = [w for r in finals(messages) for w in r.channel.alternatives[0].words]
    assert " ".join(word.punctuated_word for word in words) == text(finals(messages))
    assert all(0 <= w.start < w.end <= clip("market").duration for w in words)
    assert all(0 <= w.confidence <= 1 for w in words)
    started = of(ListenV1SpeechStarted, messages)
    assert abs(started[0].timestamp - clip("market").sentences[0].start) < 0.3
    [ended] = of(ListenV1UtteranceEnd, messages)
    assert ended.last_word_end == words[-1].end
    [metadata] = of(ListenV1Metadata, messages)
    assert messages[-1] is metadata
    assert metadata.duration == pytest.approx(clip("market").duration, abs=0.001)
    assert {r.metadata.request_id for r in finals(messages)} == {metadata.request_id}


async def test_finalize_brings_out_the_words_and_the_stream_goes_on(server, client):
    audio = s16le(clip("doctor").samples)
    # Beforehand: a connection that sends nothing for 10 s is closed.
    expected = await text_of(server, "doctor")
    async with client.listen.v1.connect(**PCM) as connection:
        for _ in range(2):
            await send_all(connection, audio)
            await connection.send_finalize()
            messages = []
            while not (messages and messages[-1].from_finalize):
                messages.append(await connection.recv())
            assert text(messages).split() == expected.split()
            await connection.send_keep_alive()
        await connection.send_finalize()
        empty = await connection.recv()
        assert (transcript(empty), empty.is_final, empty.from_finalize) == ("", True, True)


async def test_finalize_in_mid_speech_and_close_at_once(client):
    """As LiveKit does it: Finalize and CloseStream back to back in the middle of a word."""
    doctor = clip("doctor")
    cut = round(doctor.words[6].end * 16_000)
    async with client.listen.v1.connect(**PCM) as connection:
        await send_all(connection, s16le(doctor.samples[:cut]))
        await connection.send_finalize()
        await connection.send_close_stream()
        messages = await collect(connection)
    [answer] = [result for result in finals(messages) if result.from_finalize]
    assert "doctor" in transcript(answer)
    assert answer.speech_final
    assert text(finals(messages)) == transcript(answer)
    assert isinstance(messages[-1], ListenV1Metadata)


@pytest.mark.parametrize("encoding", ["linear32", "mulaw", "alaw"])
async def test_encodings_and_rates(server, client, encoding):
    phone = clip("phone")
    whole = {"linear32": ("s32le", "pcm_s32le"), "mulaw": ("mulaw", "pcm_mulaw")}
    container, codec = whole.get(encoding, ("alaw", "pcm_alaw"))
    audio = encode(phone.samples, container, codec, rate=8000)
    native = await live(server.ws, audio, format=container, rate=8000)
    options = {**PCM, "encoding": encoding, "sample_rate": 8000}
    async with client.listen.v1.connect(**options) as connection:
        await send_all(connection, audio, chunk=1001)
        await connection.send_close_stream()
        messages = await collect(connection)
    assert text(finals(messages)) == native.of("done")[0]["text"]
    assert len(text(finals(messages)).split()) > 3


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("webm", "libopus", {}),
        ("ogg", "libopus", {"encoding": "ogg-opus", "sample_rate": 48_000}),
        ("flac", "flac", {"encoding": "flac"}),
    ],
)
async def test_containers_need_no_encoding(client, container, codec, options):
    media = encode(clip("doctor").samples, container, codec, seekable=container == "flac")
    async with client.listen.v1.connect(model="nova-3", **options) as connection:
        await send_all(connection, media, chunk=997)
        await connection.send_close_stream()
        messages = await collect(connection)
    assert {"doctor", "afternoon", "results"} <= set(spelt(text(finals(messages))))


@pytest.mark.conforms(
    "Deepgram",
    "what cannot be decoded",
    "`Error`, close 1008, `DATA-0000`",
)
async def test_undecodable_audio_closes_with_data_0000(client):
    async with client.listen.v1.connect(model="nova-3") as connection:
        seen = []
        connection.on(EventType.MESSAGE, seen.append)
        await connection.send_media(b"this is no sound at all" * 100)
        await connection.start_listening()
        assert connection._websocket.close_code == 1008
        assert connection._websocket.close_reason.startswith("DATA-0000")
    [error] = of(ListenV1Error, seen)
    assert error.variant == "bad_audio"


async def test_configure_is_answered(client):
    async with client.listen.v1.connect(**PCM) as connection:
        await connection._send({"type": "Configure", "keyterms": ["voxlive"]})
        answer = await connection.recv()
        assert isinstance(answer, ListenV1ConfigureFailure)
        assert answer.code == "CONFIGURE_KEYTERMS_NOT_SUPPORTED"


@pytest.mark.parametrize(
    "options",
    [{"redact": "pci"}, {"language": "xx"}, {"endpointing": "soon"}, {"encoding": "amr-nb"}],
)
async def test_unsupported_options_refuse_the_handshake(client, options):
    with pytest.raises(ApiError) as refused:
        async with client.listen.v1.connect(**{**PCM, **options}):
            pass
    assert refused.value.status_code == 400


@pytest.mark.endurance
async def test_a_full_server_is_a_503_at_the_handshake(small):
    client = AsyncDeepgramClient(api_key="any", environment=environment(small))
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        await receive(first)
        with pytest.raises(ApiError) as refused:
            async with client.listen.v1.connect(**PCM):
                pass
        assert refused.value.status_code == 503
        file = clip("yes").path.read_bytes()
        response = await client.listen.v1.media.transcribe_file(request=file)
        assert response.results.channels[0].alternatives[0].transcript
    await small.until(in_use=0)
    async with client.listen.v1.connect(**PCM) as connection:
        await connection.send_close_stream()
        assert [type(message) for message in await collect(connection)] == [ListenV1Metadata]


def test_the_synchronous_client(server):
    client = DeepgramClient(api_key="any", environment=environment(server))
    audio = s16le(clip("yes").samples)
    with client.listen.v1.connect(**PCM) as connection:
        connection.send_media(audio)
        connection.send_finalize()
        connection.send_close_stream()
        messages = list(connection)
    assert "yes" in spelt(text(finals(messages)))
    assert isinstance(messages[-1], ListenV1Metadata)


@pytest.mark.conforms(
    "Deepgram's files",
    "`utterances`",
    "works",
)
async def test_a_file(server, client):
    noisy = clip("noisy")
    answer = await client.listen.v1.media.transcribe_file(
        request=noisy.path.read_bytes(), model="nova-3", smart_format=True, utterances=True
    )
    [channel] = answer.results.channels
    [alternative] = channel.alternatives
    assert alternative.transcript == await text_of(server, "noisy")
    assert [word.word for word in alternative.words] == spelt(alternative.transcript)
    [utterance] = answer.results.utterances
    assert utterance.transcript == alternative.transcript
    assert utterance.start == alternative.words[0].start
    assert answer.metadata.duration == pytest.approx(noisy.duration, abs=0.001)
    assert len(answer.metadata.sha256) == 64


@pytest.mark.conforms(
    "Deepgram's files",
    "the audio as the body, a container or PCM with `encoding` and `sample_rate`",
    "works, up to 50 MB",
)
async def test_a_file_of_raw_samples(server, client):
    audio = s16le(clip("noisy").samples)
    options = {"additional_query_parameters": {"sample_rate": "16000"}}
    answer = await client.listen.v1.media.transcribe_file(
        request=audio, encoding="linear16", request_options=options
    )
    [alternative] = answer.results.channels[0].alternatives
    assert alternative.transcript == await text_of(server, "noisy")


@pytest.mark.conforms(
    "Deepgram's files",
    "JSON with a `url`",
    "refused: HTTP 400, this server fetches nothing",
)
@pytest.mark.conforms(
    "Deepgram's files",
    "`summarize`, `sentiment`, `topics`, `intents` and what live refuses",
    "refused: HTTP 400",
)
async def test_undecodable_files_and_unsupported_options(client):
    media = client.listen.v1.media
    good = clip("yes").path.read_bytes()
    for call, hint in [
        (partial(media.transcribe_file, request=b"not audio at all, not even close"), "none of"),
        (partial(media.transcribe_file, request=good[:1000]), "cut off"),
        (partial(media.transcribe_file, request=good, language="fr"), "does not know French"),
        (partial(media.transcribe_file, request=good, summarize="v2"), "summarize"),
        (partial(media.transcribe_file, request=good, multichannel=True), "multichannel"),
        (partial(media.transcribe_url, url="https://example.com/a.wav"), "fetches nothing"),
    ]:
        with pytest.raises(BadRequestError) as refused:
            await call()
        assert refused.value.body["err_code"] == "Bad Request"
        assert hint in refused.value.body["err_msg"]
        assert refused.value.body["request_id"] == refused.value.headers["dg-request-id"]


async def test_voices_are_told_apart(client):
    """The same voice twice is one speaker, the first."""
    first, pause = clip("doctor"), np.zeros(16_000, np.float32)
    audio = np.concatenate([two_people(), pause])
    async with client.listen.v1.connect(**PCM, diarize="true") as connection:
        await send_all(connection, s16le(audio), chunk=16_000)
        await connection.send_close_stream()
        messages = await collect(connection)
    words = [word for r in finals(messages) for word in r.channel.alternatives[0].words]
    begin = (len(audio) - len(pause) - len(first.samples)) / 16_000
    ends = [w.speaker for w in words if w.start < first.duration or w.start >= begin]
    assert len(ends) > 15
    assert set(ends) == {0}


@pytest.mark.endurance
@pytest.mark.conforms(
    "Deepgram's files",
    "`diarize`",
    "works: `speaker` of each word and of `utterances`, by all of the file. Needs "
    "`voxlive models fetch speaker-encoder`, or a model that tells speakers itself",
)
async def test_voices_of_a_file_are_told_apart(client, tmp_path):
    wav = write_wav(tmp_path / "two.wav", s16le(two_people()))
    answer = await client.listen.v1.media.transcribe_file(
        request=wav.read_bytes(), diarize=True, utterances=True
    )
    spoken = [(one.speaker, one.transcript) for one in answer.results.utterances]
    assert [speaker for speaker, _ in spoken] == [0, 1, 0]
    assert spoken[0] == spoken[2]
    words = answer.results.channels[0].alternatives[0].words
    assert [one for one, _ in groupby(word.speaker for word in words)] == [0, 1, 0]
