"""Flux: the translator of turns, and Deepgram's own client of it on a real server."""

import json

import numpy as np
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.api_error import ApiError
from deepgram.listen.v2.types import (
    ListenV2Configure,
    ListenV2ConfigureFailure,
    ListenV2ConfigureSuccess,
    ListenV2Connected,
    ListenV2TurnInfo,
    ListenV2Warning,
)
from support.clips import clip
from support.conversations import ENGLISH
from support.scoring import spelt
from support.wire import s16le

from voxlive.errors import ProtocolError
from voxlive.streaming.events import Draft, SessionClosed, TurnClosed, Words
from voxlive.turns.tracker import (
    TurnEnded,
    TurnLikelyEnded,
    TurnOptions,
    TurnResumed,
    TurnStarted,
)
from voxlive.values import Word
from voxlive.web.protocols.contract import CloseSocket, FlushSession, SetTurns
from voxlive.web.protocols.deepgram.flux import FluxProtocol

PCM = {"encoding": "linear16", "sample_rate": "16000"}


def opened(**params: str) -> FluxProtocol:
    protocol = FluxProtocol({**PCM, **params}, ENGLISH)
    protocol.options_from_handshake()
    return protocol


def told(protocol: FluxProtocol, *events: object) -> list[dict]:
    outs = [out for event in events for out in protocol.on_event(event)]
    return [json.loads(out) for out in outs]


@pytest.mark.conforms(
    "Flux",
    "`StartOfTurn`, `Update`, `EagerEndOfTurn`, `TurnResumed`, `EndOfTurn`",
    "work: each has the text of its turn so far, with drafts (words without times), "
    "`EndOfTurn` all of it; `trigger` is also `audio_end`. Needs `voxlive models fetch smart-turn`",
)
def test_a_turn_is_told_with_all_of_its_text():
    protocol = opened(eager_eot_threshold="0.5")
    [connected] = map(json.loads, protocol.connected())
    assert (connected["type"], connected["sequence_id"]) == ("Connected", 0)
    hello, world = Word(" Hello", 1600, 8000, 0.75), Word(" world.", 8000, 16_000)
    [start] = told(protocol, TurnStarted(0, 1600))
    assert (start["event"], start["turn_index"], start["transcript"]) == ("StartOfTurn", 0, "")
    assert told(protocol, Words(0, (hello,)), Draft(0, " word")) == []
    [update] = map(json.loads, protocol.tick())
    assert (update["event"], update["transcript"]) == ("Update", "Hello word")
    assert update["words"] == [
        {"word": "Hello", "confidence": 0.75, "start": 0.1, "end": 0.5},
        {"word": "word", "confidence": 0.0},
    ]
    assert protocol.tick() == []
    likely = TurnLikelyEnded(0, 16_000, 18_048, 0.6)
    eager, resumed = told(protocol, likely, TurnResumed(0, 20_000))
    assert (eager["event"], eager["end_of_turn_confidence"]) == ("EagerEndOfTurn", 0.6)
    assert (eager["audio_window_start"], eager["audio_window_end"]) == (0.1, 1.128)
    assert resumed["event"] == "TurnResumed"
    # Another turn may begin before all words of the one before are out: it is told behind them.
    ended = TurnEnded(0, 30_000, 32_000, 0.9, "confidence")
    assert told(protocol, ended, TurnStarted(1, 33_000)) == []
    closed = TurnClosed(0, 1600, 30_000, "Hello world.")
    end, next_start = told(protocol, Words(0, (world,)), closed)
    assert (next_start["event"], next_start["turn_index"]) == ("StartOfTurn", 1)
    assert next_start["transcript"] == ""
    assert (end["event"], end["turn_index"], end["trigger"]) == ("EndOfTurn", 0, "model")
    assert (end["transcript"], end["end_of_turn_confidence"]) == ("Hello world.", 0.9)
    assert protocol.received('{"type": "CloseStream"}')
    told(protocol, TurnEnded(1, 40_000, 40_000, 0.2, "audio_end"))
    [last] = told(protocol, TurnClosed(1, 33_000, 40_000))
    assert (last["trigger"], last["sequence_id"]) == ("audio_end", 7)
    assert protocol.on_event(SessionClosed(40_000)) == [CloseSocket(1000)]


@pytest.mark.conforms(
    "Flux",
    "`eot_threshold`, `eager_eot_threshold`, `eot_timeout_ms`; `keyterm`; `language_hint`",
    "work; of several languages the model finds out. `numerals`, `tag`: without effect",
)
def test_the_query_is_what_turns_end_by():
    asked = opened().options_from_handshake()
    assert asked.turns == TurnOptions(0.7, None, 5000, None)
    query = {"eot_threshold": "0.8", "eager_eot_threshold": "0.4", "eot_timeout_ms": "900"}
    asked = opened(**query, language_hint="en").options_from_handshake()
    assert asked.turns == TurnOptions(0.8, 0.4, 900, None)
    assert asked.stream.language == "en"
    for bad in ({"eot_threshold": "0.95"}, {"eager_eot_threshold": "0.8"}, {"redact": "pii"}):
        with pytest.raises(ProtocolError, match=next(iter(bad))):
            opened(**bad)


@pytest.mark.conforms(
    "Flux",
    "`Configure` in mid-stream, `ForceEndTurn`",
    "work; key terms count from the next pause on, within 10 s; what cannot be set is refused",
)
def test_a_stream_is_configured_whole_or_not_at_all():
    protocol = opened(eager_eot_threshold="0.5")
    thresholds = {"eot_threshold": 0.9, "eot_timeout_ms": 700}
    change = json.dumps({"type": "Configure", "thresholds": thresholds})
    turns, reply = protocol.received(change)
    assert turns == SetTurns(TurnOptions(0.9, 0.5, 700, None))
    success = json.loads(reply.frame())
    assert success["thresholds"] == {**thresholds, "eager_eot_threshold": 0.5}
    assert protocol.received('{"type": "ForceEndTurn"}') == [
        FlushSession("ForceEndTurn", ends_turn=True)
    ]
    for bad in (
        {"thresholds": {"eot_threshold": 3}},
        {"thresholds": {"eager_eot_threshold": 0.6, "eot_threshold": 0.5}},
        {"keyterms": 5},
        {"keyterms": ["Elinor"]},  # this engine takes none
        {"language_hints": ["de"]},
    ):
        [refusal] = protocol.received(json.dumps({"type": "Configure", **bad}))
        failure = json.loads(refusal.frame())
        assert (failure["type"], bool(failure["description"])) == ("ConfigureFailure", True)


async def until(connection, event: str) -> ListenV2TurnInfo:
    while True:
        message = await connection.recv()
        assert isinstance(message, ListenV2TurnInfo), message
        if message.event == event:
            return message


@pytest.mark.long
async def test_deepgrams_client_has_a_conversation(server):
    environment = DeepgramClientEnvironment(
        base=server.url, production=server.ws, agent=server.ws, agent_rest=server.url
    )
    client = AsyncDeepgramClient(api_key="any", environment=environment)
    pause = np.zeros(24_000, np.float32)
    doctor = s16le(np.concatenate([clip("doctor").samples, pause]))
    market = s16le(clip("market").samples)
    asked = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": 16_000}
    async with client.listen.v2.connect(**asked, eager_eot_threshold=0.5) as connection:
        assert isinstance(await connection.recv(), ListenV2Connected)
        for at in range(0, len(doctor), 8000):
            await connection.send_media(doctor[at : at + 8000])
        assert (await until(connection, "StartOfTurn")).turn_index == 0
        first = await until(connection, "EndOfTurn")
        assert (first.turn_index, first.trigger) == (0, "model")
        assert {"doctor", "results"} <= set(spelt(first.transcript))
        assert " ".join(word.word for word in first.words) == first.transcript
        assert abs(first.audio_window_end - clip("doctor").words[-1].end) < 2
        configure = ListenV2Configure(
            type="Configure", thresholds={"eot_threshold": 0.9}, keyterms=["Apples"]
        )
        await connection.send_configure(configure)
        success = await connection.recv()
        assert isinstance(success, ListenV2ConfigureSuccess)
        assert (success.thresholds.eot_threshold, success.keyterms) == (0.9, ["Apples"])
        await connection.send_configure({"type": "Configure", "language_hints": ["de"]})
        assert isinstance(await connection.recv(), ListenV2ConfigureFailure)
        await connection._websocket.send('{"type": "Nonsense"}')
        assert isinstance(await connection.recv(), ListenV2Warning)
        # In mid-sentence the client says that it is over.
        half = round(clip("market").words[5].end * 16_000) * 2
        await connection.send_media(market[:half])
        await connection.send_force_end_turn()
        second = await until(connection, "EndOfTurn")
        assert (second.turn_index, second.trigger) == (1, "manual")
        assert "Apples" in [word.word.strip(",") for word in second.words]
        await connection.send_media(market[half:])
        await connection.send_close_stream()
        rest = [message async for message in connection]
        assert connection._websocket.close_code == 1000
    messages = [first, second, *rest]
    assert [m.sequence_id for m in rest] == [*range(rest[0].sequence_id, rest[-1].sequence_id + 1)]
    ends = [m for m in messages if m.event == "EndOfTurn"]
    assert [end.turn_index for end in ends] == [*range(len(ends))]
    assert "total" in spelt(ends[-1].transcript)
    with pytest.raises(ApiError) as refused:
        async with client.listen.v2.connect(**asked, eot_threshold=0.99):
            pass
    assert refused.value.status_code == 400
