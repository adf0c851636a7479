"""Every endpoint takes every spelling of a language, and refuses unknown ones in its own form.

First on the objects that parse requests, where the code comes out; then on a real server, where the
session opens or is refused.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import pytest
from starlette.datastructures import FormData
from support.clips import clip
from support.commands import Run, command_line
from support.server import Server, serving
from support.talk import (
    AUDIO_START,
    BEGIN,
    DEEPGRAM,
    MISTRAL,
    OPTIONS,
    PANEL,
    PORTS,
    WHISPER,
    append,
    call,
    connect,
    mistral_append,
)
from support.wire import START, receive, send
from websockets.exceptions import ConnectionClosed, InvalidStatus
from wyoming.asr import Transcribe
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.ping import Ping

from voxlive.engines.contract import EngineInfo
from voxlive.errors import ProtocolError, RequestRefused
from voxlive.web.protocols.asr import AsrProtocol
from voxlive.web.protocols.contract import OpenSession, Refuse, Reply
from voxlive.web.protocols.deepgram.wire import read_query as deepgram
from voxlive.web.protocols.echopanel import EchoPanelProtocol
from voxlive.web.protocols.live import LiveProtocol
from voxlive.web.protocols.mistral import MistralProtocol
from voxlive.web.protocols.openai.config import Config
from voxlive.web.protocols.realtime import RealtimeProtocol
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.protocols.wyoming import WyomingProtocol
from voxlive.web.rest import chat, transcriptions
from voxlive.web.rest.transcriptions import FormFields

ANY = EngineInfo("test", "model-b", "cpu", 4, ())
SPELLINGS = {
    "en": "en",
    "EN ": "en",
    " eng": "en",
    "English": "en",
    "ENGLISH": "en",
    "en_US": "en",
    "en-GB": "en",
    "en_US.UTF-8": "en",
    "deu": "de",
    "ger": "de",
    "german": "de",
    "zh-Hans": "zh",
    "zh_TW": "zh",
    "chi": "zh",
    "Mandarin": "zh",
    "yue": "yue",
    "Haitian  Creole": "ht",
    "jw": "jv",
    "": None,
    " ": None,
    "auto": None,
    "Auto": None,
    "und": None,
}
NONE = ("xx", "klingon", "french toast", "中", "x" * 1000)
SILENCE = bytes(3200)


class LanguageRefused(Exception):
    """A endpoint spelling no, in this message."""


Endpoint = Callable[[str | None], str | None]


def _session(protocol, *frames: dict | str | bytes) -> str | None:
    """The language of the session that opens after these frames."""
    try:
        if options := protocol.options_from_handshake():
            return options.stream.language
        protocol.connected()
        for frame in frames:
            for action in protocol.received(
                json.dumps(frame) if isinstance(frame, dict) else frame
            ):
                match action:
                    case OpenSession(options):
                        return options.stream.language
                    case Refuse(_, message):
                        raise LanguageRefused(message)
                    case Reply(text) if json.loads(text)["type"] == "error":
                        raise LanguageRefused(json.loads(text)["error"]["message"])
    except ProtocolError as error:
        raise LanguageRefused(error.message) from error
    raise AssertionError("no session was opened")


def language_query(spelling: str | None) -> dict[str, str]:
    return {} if spelling is None else {"language": spelling}


def live(spelling):
    return _session(LiveProtocol({}, ANY), {**START, "language": spelling})


def asr(spelling):
    return _session(AsrProtocol(language_query(spelling), ANY), SILENCE)


def openai(spelling):
    audio = {"input": {"transcription": {"language": spelling}}}
    update = {"type": "session.update", "session": {"type": "transcription", "audio": audio}}
    return _session(RealtimeProtocol({}, ANY), update, append(SILENCE))


def openai_hints(spelling):
    audio = {
        "input": {"transcription": {"languages": [spelling] if spelling is not None else None}}
    }
    update = {"type": "session.update", "session": {"audio": audio}}
    return _session(RealtimeProtocol({}, ANY), update, append(SILENCE))


def openai_beta(spelling):
    session = {"input_audio_format": "pcm16", "input_audio_transcription": {"language": spelling}}
    update = {"type": "transcription_session.update", "session": session}
    return _session(RealtimeProtocol({}, ANY), update, append(SILENCE))


def openai_url(spelling):
    return _session(RealtimeProtocol(language_query(spelling), ANY), append(SILENCE))


def openai_key(spelling):
    asked = {"audio": {"input": {"transcription": {"language": spelling}}}}
    config = Config().updated(asked, lambda _: ANY)
    return config.language


def vllm(spelling):
    update = {"type": "session.update", "model": "m", "language": spelling}
    return _session(RealtimeProtocol({}, ANY), update, append(SILENCE))


def vllm_url(spelling):
    update = {"type": "session.update", "model": "m"}
    return _session(RealtimeProtocol(language_query(spelling), ANY), update, append(SILENCE))


def mistral(spelling):
    update = {"type": "session.update", "session": {"language": spelling}}
    return _session(MistralProtocol({"model": "m"}, ANY), update, mistral_append(SILENCE))


def deepgram_query(spelling):
    try:
        return deepgram(
            {"encoding": "linear16", "sample_rate": "16000", **language_query(spelling)}
        ).language
    except ProtocolError as error:
        raise LanguageRefused(error.message) from error


def whisper_live(spelling):
    return _session(WhisperLiveProtocol({}, ANY), {**OPTIONS, "language": spelling})


def echopanel(spelling):
    return _session(EchoPanelProtocol({}, ANY), {**BEGIN, "language": spelling}, SILENCE)


def wyoming_port(spelling):
    protocol = WyomingProtocol(ANY)
    try:
        protocol.received(Event("transcribe", {"language": spelling}))
        [opening] = protocol.received(AUDIO_START)
    except ProtocolError as error:
        raise LanguageRefused(error.message) from error
    return opening.options.stream.language


def _form(*fields: tuple[str, str]):
    try:
        return transcriptions._read(
            FormFields(FormData(fields)), "transcribe"
        ).requirements.language
    except RequestRefused as error:
        raise LanguageRefused(error.message) from error


def rest(spelling):
    return _form(*language_query(spelling).items())


def rest_hints(spelling):
    return _form(*(("languages", value) for value in language_query(spelling).values()))


def chat_completion(spelling):
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    body = {"messages": [{"role": "user", "content": [audio]}], "language": spelling}
    try:
        return chat._read(body).language
    except RequestRefused as error:
        raise LanguageRefused(error.message) from error


ENDPOINTS: list[Endpoint] = [
    live, asr, openai, openai_hints, openai_beta, openai_url, openai_key, vllm, vllm_url, mistral,
    deepgram_query, whisper_live, echopanel, wyoming_port, rest, rest_hints, chat_completion,
]  # fmt: skip
each_endpoint = pytest.mark.parametrize(
    "endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.__name__
)


@each_endpoint
def test_every_endpoint_normalizes_spellings(endpoint):
    assert {one: endpoint(one) for one in SPELLINGS} == SPELLINGS
    assert endpoint(None) is None


@each_endpoint
def test_every_endpoint_refuses_unknown_languages_with_a_hint(endpoint):
    for spelling in NONE:
        with pytest.raises((LanguageRefused, ValueError), match=r"en-US.*English"):
            endpoint(spelling)


@pytest.mark.parametrize("spelling", ["multi", "Multi "])
def test_deepgrams_multi_is_no_language(spelling):
    assert deepgram_query(spelling) is None


# At a real server, whose engine knows English. One spelling of it and one of none show that what is
# tested above is what a server uses; `make endurance` has all.

ENGLISH = [spelling for spelling, code in SPELLINGS.items() if code in ("en", None)]
each_sample = pytest.mark.parametrize(
    "spellings",
    [
        pytest.param(("en_US.UTF-8", "Auto"), id="some"),
        pytest.param(ENGLISH, id="all", marks=pytest.mark.endurance),
    ],
)
WAV = clip("yes").path.read_bytes()


@pytest.fixture(scope="module")
def everything() -> Iterator[Server]:
    with serving(*PORTS, "--max-sessions", "2") as running:
        yield running


async def _answer(server: Server, place: str, *frames, params: dict | None = None) -> str:
    """What is first spelling after the frames, once there is anything but greetings."""
    query = str(httpx.QueryParams(params)) if params else ""
    place += f"{'&' if '?' in place else '?'}{query}" if query else ""
    greetings = ("session.created", "session.updated", "config", "status")
    try:
        async with connect(server, place) as socket:
            with suppress(ConnectionClosed):  # it may be refused before all is sent
                await send(socket, *frames)
            with suppress(ConnectionClosed):
                while True:
                    answer = await receive(socket)
                    if answer.get("type") not in greetings or answer.get("state") == "error":
                        break
            return json.dumps(answer, ensure_ascii=False)
    except InvalidStatus as refused:
        return json.dumps({"type": "error", **json.loads(refused.response.body)})


async def _live(server, spelling):
    return await _answer(server, "/v1/live", {**START, "language": spelling})


async def _asr(server, spelling):
    return await _answer(server, "/asr", SILENCE, b"", params={"language": spelling})


async def _openai(server, spelling):
    session = {
        "audio": {"input": {"transcription": {"language": spelling}, "turn_detection": None}}
    }
    commit = {"type": "input_audio_buffer.commit"}
    update = {"type": "session.update", "session": session}
    return await _answer(server, "/v1/realtime", update, append(SILENCE * 3), commit)


async def _vllm(server, spelling):
    commit = {"type": "input_audio_buffer.commit", "final": True}
    update = {"type": "session.update", "model": "m", "language": spelling}
    return await _answer(server, "/v1/realtime", update, append(SILENCE), commit)


async def _mistral(server, spelling):
    update = {"type": "session.update", "session": {"language": spelling}}
    end = {"type": "input_audio.end"}
    return await _answer(server, MISTRAL, update, mistral_append(SILENCE), end)


async def _deepgram(server, spelling):
    close = {"type": "CloseStream"}
    return await _answer(server, DEEPGRAM, SILENCE, close, params={"language": spelling})


async def _whisper_live(server, spelling):
    return await _answer(server, WHISPER, {**OPTIONS, "language": spelling})


async def _echopanel(server, spelling):
    stop = {"type": "stop", "session_id": "s"}
    return await _answer(server, PANEL, {**BEGIN, "language": spelling}, SILENCE, stop)


async def _wyoming(server, spelling):
    async with call(server) as (reader, writer):
        # It may be refused at once, or when the session is opened.
        for events in ((Transcribe(language=spelling).event(), Ping().event()), (AUDIO_START,)):
            for event in events:
                await async_write_event(event, writer)
            answer = await async_read_event(reader)
            if answer.type == "error":
                break
        return json.dumps({"type": answer.type, **answer.data})


async def _post(server, path, **request):
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        return (await client.post(path, **request)).text


async def _rest(server, spelling):
    files = {"file": ("clip", WAV)}
    return await _post(server, "/v1/audio/transcriptions", files=files, data={"language": spelling})


async def _deepgram_file(server, spelling):
    return await _post(server, "/v1/listen", params={"language": spelling}, content=WAV)


SERVED = [_live, _asr, _openai, _vllm, _mistral, _deepgram, _whisper_live, _echopanel, _wyoming]
FILES = [_rest, pytest.param(_deepgram_file, marks=pytest.mark.endurance)]


@each_sample
@pytest.mark.parametrize("endpoint", SERVED, ids=lambda endpoint: endpoint.__name__)
async def test_live_sessions_take_every_spelling_or_refuse(everything, endpoint, spellings):
    for spelling in spellings:
        answer = await endpoint(everything, spelling)
        assert "error" not in answer.lower(), (spelling, answer)
        await everything.until(in_use=0)
    for spelling, hint in (
        ("xx", "such as English"),
        ("Klingon", "such as English"),
        ("fr", "French"),
    ):
        answer = await endpoint(everything, spelling)
        assert "error" in answer.lower()
        assert hint in answer, (spelling, answer)
        await everything.until(in_use=0)


@each_sample
@pytest.mark.parametrize("endpoint", FILES, ids=lambda endpoint: endpoint.__name__)
async def test_files_take_every_spelling_or_are_refused(everything, endpoint, spellings):
    for spelling in spellings:
        answer = await endpoint(everything, spelling)
        assert "Yes" in answer, (spelling, answer)
    for spelling, hint in (("xx", "such as English"), ("fr", "French")):
        answer = await endpoint(everything, spelling)
        assert "Yes" not in answer
        assert hint in answer


@pytest.fixture(scope="module")
def voxlive() -> Iterator[Run]:
    with command_line() as run:
        yield run


@each_sample
@pytest.mark.parametrize(
    "command", ["transcribe", pytest.param("listen", marks=pytest.mark.endurance)]
)
def test_the_command_line_takes_every_spelling(voxlive: Run, command, spellings):
    there = ("no-such-file",) if command == "transcribe" else ("--microphone", "no-such")
    for spelling in spellings:
        done = voxlive(command, *there, "--language", spelling)
        assert "--language" not in done.stderr
    done = voxlive(command, *there, "--language", "xx")
    assert done.returncode == 2
    assert "such as English" in done.stderr
