"""Whose words they are, by voice and by source, as each wire format says it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby

import httpx
import pytest
from support.conversations import ENGLISH
from websockets.asyncio.client import connect

from voxlive.cli.listen import TerminalCaptions
from voxlive.errors import ProtocolError
from voxlive.runners.outputs.formats import export
from voxlive.speakers.labels import SpeakerNamed, SpeakerRange, SpeakersFound
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.store.contract import StoredSegment, StoredSession, StoredTranscript, StoredWord
from voxlive.streaming.events import Event, SegmentClosed, SessionClosed, UtteranceEnded, Words
from voxlive.values import Word
from voxlive.web.captions.cues import LiveCues
from voxlive.web.captions.feed import CaptionFeed, CaptionReader
from voxlive.web.protocols.asr import AsrProtocol
from voxlive.web.protocols.contract import NameSpeaker, OpenSession, Protocol, Refuse
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.live import LiveProtocol
from voxlive.web.protocols.mistral import MistralProtocol
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol

Said = list[tuple[object, str]]
PCM = {"encoding": "linear16", "sample_rate": "16000"}


def words(*texts: str, at: int = 0) -> tuple[Word, ...]:
    """A word a second."""
    return tuple(Word(text, 16_000 * n, 16_000 * n + 12_000) for n, text in enumerate(texts, at))


def found(segment: int, first: int, last: int, speaker: int) -> SpeakersFound:
    return SpeakersFound((SpeakerRange(segment, first, last, speaker),), speaker + 1)


TALK: list[Event] = [
    Words(0, words(" Hello", " there.")),
    found(0, 0, 1, 0),
    Words(0, words(" Hi", " you.", at=2)),
    found(0, 2, 3, 0),  # which is changed within its time
    found(0, 2, 3, 1),
    SegmentClosed(0, 0, 60_000, " Hello there. Hi you."),
    UtteranceEnded(60_000),
    Words(1, words(" Bye.", at=5)),
    found(1, 0, 0, 0),
    SegmentClosed(1, 80_000, 92_000, " Bye."),
    UtteranceEnded(92_000),
    SessionClosed(100_000),
]


def outs_of(protocol: Protocol, events: Iterable[Event]) -> list[dict]:
    outs = [out for event in events for out in (*protocol.on_event(event), *protocol.tick())]
    return [json.loads(out) for out in outs if isinstance(out, str)]


def joined(pairs: Iterable[tuple[object, str]]) -> Said:
    groups = groupby(pairs, key=lambda pair: pair[0])
    return [(who, " ".join(text for _, text in said)) for who, said in groups]


def asr(mode: str) -> Callable[[], Said]:
    def said() -> Said:
        protocol = AsrProtocol({"mode": mode, "diarize": "true"}, ENGLISH)
        protocol.connected()
        [opening, _] = protocol.received(bytes(320))
        assert opening.options.speakers == SpeakerOptions()
        protocol.opened("id", opening.options)
        messages = outs_of(protocol, TALK)
        updates = [one for one in messages if "status" in one]
        lines = [line for one in updates for line in one.get("new_lines", ())]
        lines = updates[-1]["lines"] if mode == "full" else lines
        return [(line["speaker"], line["text"]) for line in lines]

    return said


@pytest.mark.conforms(
    "WhisperLive",
    "`enable_diarization`, `max_speakers`",
    "work: each segment's `speaker` is `SPEAKER_00` and so on; another speaker begins another "
    "segment. Needs `voxlive models fetch speaker-encoder`",
)
def test_whisper_live_names_speakers_as_its_server_does():
    assert {who for who, _ in whisper_live()} == {"SPEAKER_00", "SPEAKER_01"}


def whisper_live() -> Said:
    protocol = WhisperLiveProtocol({}, ENGLISH)
    [opening] = protocol.received('{"uid": "a", "enable_diarization": true, "max_speakers": 3}')
    assert isinstance(opening, OpenSession)
    assert opening.options.speakers == SpeakerOptions(max_speakers=3)
    updates = [one["segments"] for one in outs_of(protocol, TALK) if "segments" in one]
    return [(one["speaker"], one["text"].strip()) for one in updates[-1] if one["completed"]]


@pytest.mark.conforms(
    "Mistral",
    "`diarize`",
    "works: `speaker_id` of segments, `speaker_1` and so on; another speaker begins another "
    "segment. Needs `voxlive models fetch speaker-encoder`",
)
def test_mistral_has_speakers_as_text():
    assert {who for who, _ in mistral()} == {"speaker_1", "speaker_2"}


def mistral() -> Said:
    protocol = MistralProtocol({"model": "m"}, ENGLISH)
    update = {"type": "session.update", "session": {"diarize": True}}
    [reply] = protocol.received(json.dumps(update))
    assert json.loads(reply.frame)["session"]["diarize"] is True
    append = {"type": "input_audio.append", "audio": "AAAA"}
    assert protocol.received(json.dumps(append))[0].options.speakers == SpeakerOptions()
    messages = outs_of(protocol, TALK)
    segments = [one for one in messages if one["type"] == "transcription.segment"]
    [done] = [one for one in messages if one["type"] == "transcription.done"]
    assert [one["speaker_id"] for one in done["segments"]] == [
        one["speaker_id"] for one in segments
    ]
    return [(one["speaker_id"], one["text"].strip()) for one in segments]


def deepgram() -> Said:
    protocol = DeepgramProtocol({**PCM, "diarize": "true"}, ENGLISH)
    protocol.options_from_handshake()
    results = [one for one in outs_of(protocol, TALK) if one.get("is_final")]
    heard = [w for one in results for w in one["channel"]["alternatives"][0]["words"]]
    return joined((word["speaker"], word["punctuated_word"]) for word in heard)


def native() -> Said:
    protocol = LiveProtocol({}, ENGLISH)
    protocol.received('{"type": "start", "format": "s16le", "diarize": true}')
    texts: dict[tuple[int, int], str] = {}
    who: dict[tuple[int, int], int] = {}
    for message in outs_of(protocol, TALK):
        if message["type"] == "words":
            segment = message["segment"]
            for word in message["words"]:
                number = sum(one == segment for one, _ in texts)
                texts[segment, number] = word["text"].strip()
        for one in message.get("ranges", ()):
            first, last = one["words"]
            who |= {(one["segment"], n): one["speaker"] for n in range(first, last + 1)}
    return joined((who[place], text) for place, text in texts.items())


async def captions(events: Iterable[Event]) -> list[tuple[str, dict]]:
    feed = CaptionFeed("s1", "s1", "/v1/live")
    with feed.reading(reader := CaptionReader()):
        reader.take()
        for event in events:
            feed.on_event(event)
        sent = reader.take()
        snapshot = snapshot_of(feed)
    pairs = re.findall(r"event: (\w+)\n(?:id: .*\n)?data: (.*)\n", sent + snapshot)
    return [(kind, json.loads(data)) for kind, data in pairs]


def snapshot_of(feed: CaptionFeed) -> str:
    with feed.reading(reader := CaptionReader()):
        return reader.take()


def spoken(parts: list[dict]) -> Said:
    return [(one["speaker"], one["text"].strip()) for one in parts]


def live_cues(events: Iterable[Event], read_from: int = 0) -> Said:
    """The WebVTT of a reader that comes after so many events."""
    cues, said = LiveCues(), [*events]
    feed = CaptionFeed("s1", "s1", "/v1/live")
    for event in said[:read_from]:
        feed.on_event(event)
    with feed.reading(reader := CaptionReader()):
        for event in said[read_from:]:
            feed.on_event(event)
        text = "".join(cues.on_caption(sent.caption) for sent in reader.unread)
    return joined(re.findall(r"<v ([^>]*)>(.*)", text))


def stored(events: Iterable[Event], *, refined: bool = False) -> StoredTranscript:
    """What a store keeps of them."""
    kept: list[StoredWord] = []
    closed = []
    for event in events:
        match event:
            case Words(segment, said, source):
                for one in said:
                    row = (len(kept), segment, one.text, one.start, one.end, None, None, source)
                    kept.append(StoredWord(*row))
            case SpeakersFound(ranges):
                for segment, first, last, speaker in ranges:
                    own = [n for n, one in enumerate(kept) if one.segment == segment]
                    for n in own[first : last + 1]:
                        kept[n] = replace(kept[n], speaker=speaker)
            case SegmentClosed(ident, start, end):
                own = [one.number for one in kept if one.segment == ident]
                closed.append(StoredSegment(ident, start, end, own[0], own[-1] + 1))
    about = StoredSession("s1", "me", datetime.now(UTC), "live", "/v1/live", "m", samples=100_000)
    again = [replace(one, speaker=None, layer="refined") for one in kept]
    transcript = StoredTranscript(about, tuple(closed), tuple(kept))
    return replace(transcript, refined=tuple(again)) if refined else transcript


def exported(suffix: str, pattern: str, *, refined: bool = False) -> Callable[[], Said]:
    def said() -> Said:
        text = export(stored(TALK, refined=refined), suffix).decode()
        return [(who, text.strip()) for who, text in re.findall(pattern, text)]

    return said


def exported_json() -> Said:
    answer = json.loads(export(stored(TALK), "json"))
    return [(one["speaker"], one["text"]) for one in answer["segments"]]


def terminal() -> Said:
    shown = TerminalCaptions()
    lines = [line for event in TALK for line in shown.on_event(event)]
    return [tuple(line.split("  ", 1)[1].split(": ", 1)) for line in lines]


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        (asr("full"), (1, 2)),
        (asr("diff"), (1, 2)),
        (whisper_live, ("SPEAKER_00", "SPEAKER_01")),
        (mistral, ("speaker_1", "speaker_2")),
        (deepgram, (0, 1)),
        (native, (0, 1)),
        (lambda: live_cues(TALK), ("Speaker 1", "Speaker 2")),
        (lambda: live_cues(TALK, 3), ("Speaker 1", "Speaker 2")),
        (lambda: live_cues(TALK, len(TALK)), ("Speaker 1", "Speaker 2")),
        (terminal, ("Speaker 1", "Speaker 2")),
        (exported("vtt", r"<v (.*?)>(.*)"), ("Speaker 1", "Speaker 2")),
        (exported("vtt", r"<v (.*?)>(.*)", refined=True), ("Speaker 1", "Speaker 2")),
        (exported("srt", r"(Speaker \d): (.*)"), ("Speaker 1", "Speaker 2")),
        (exported("md", r"\*\*[\d:]+ (Speaker \d)\*\* (.*)"), ("Speaker 1", "Speaker 2")),
        (exported_json, ("Speaker 1", "Speaker 2")),
    ],
)
def test_words_have_their_speakers_in_every_wire_format(said, labels):
    first, second = labels
    assert said() == [(first, "Hello there."), (second, "Hi you."), (first, "Bye.")]


async def test_readers_of_captions_get_speakers_and_their_names():
    named = SpeakerNamed(1, "Anna & <b>")
    sent = await captions([*TALK[:-1], named])
    live = [data for kind, data in sent if kind == "speakers"]
    assert [spoken(one["parts"]) for one in live] == [
        [(0, "Hello there.")],
        [(0, "Hello there. Hi you.")],
        [(0, "Hello there."), (1, "Hi you.")],
        [(0, "Bye.")],
    ]
    assert [data for kind, data in sent if kind == "named"] == [
        {"speaker": 1, "name": "Anna & <b>"}
    ]
    [snapshot] = [data for kind, data in sent if kind == "snapshot"]
    assert snapshot["speakers"] == [{"speaker": 1, "name": "Anna & <b>"}]
    parts = [spoken(one["parts"]) for one in snapshot["segments"]]
    assert parts == [[(0, "Hello there."), (1, "Hi you.")], [(0, "Bye.")]]
    assert ("Anna &amp; &lt;b&gt;", "Hi you.") in live_cues([named, *TALK])
    # A correction of the text keeps whose it is.
    feed = CaptionFeed("s1", "s1", "/v1/live")
    for event in TALK[:-1]:
        feed.on_event(event)
    feed.correct({0: (" Hello there. High you.", 4)}, 1)
    text = snapshot_of(feed)
    corrected = json.loads(text.partition("data: ")[2])["segments"][0]
    assert spoken(corrected["parts"]) == [(0, "Hello there."), (1, "High you.")]
    gone_on = CaptionFeed("s1", "s1", "/v1/live")
    gone_on.restore(stored(TALK))
    parts = json.loads(snapshot_of(gone_on).partition("data: ")[2])["segments"][0]["parts"]
    assert spoken(parts) == [(0, "Hello there."), (1, "Hi you.")], "another server has it"
    again = CaptionFeed("s1", "s1", "/v1/live")
    again.restore_state(json.loads(json.dumps(feed.state)))
    assert snapshot_of(again) == text, "another replica has the same"


async def test_a_client_names_speakers_of_a_session_that_nothing_keeps(server):
    protocol = LiveProtocol({}, ENGLISH)
    protocol.received('{"type": "start", "format": "s16le", "diarize": true}')
    [action] = protocol.received('{"type": "name", "speaker": 1, "name": " Anna ", "source": null}')
    assert action == NameSpeaker(1, "Anna")
    [refused] = protocol.received('{"type": "name", "speaker": 1}')
    assert isinstance(refused, Refuse)
    url = f"{server.ws}/v1/live?captions=named"
    async with connect(url) as socket, httpx.AsyncClient(timeout=60) as http:
        await socket.send('{"type": "start", "format": "s16le", "store": false}')
        assert json.loads(await socket.recv())["type"] == "ready"
        async with http.stream("GET", f"{server.url}/captions/named") as captions:
            lines = captions.aiter_lines()
            assert await anext(lines) == "event: snapshot"
            await socket.send('{"type": "name", "speaker": 0, "name": "Anna"}')
            while await anext(lines) != "event: named":
                pass
            await anext(lines)  # its id
            assert await anext(lines) == 'data: {"speaker": 0, "name": "Anna"}'


SOURCES: list[Event] = [
    Words(0, words(" Hello"), "me"),
    Words(1, words(" Hi", at=1), "them"),
    SegmentClosed(0, 0, 12_000, " Hello", source="me"),
    UtteranceEnded(12_000, "me"),
    SegmentClosed(1, 16_000, 28_000, " Hi", source="them"),
    UtteranceEnded(28_000, "them"),
]


async def by_source_in_captions() -> Said:
    sent = await captions(SOURCES)
    return [(data["source"], data["text"].strip()) for kind, data in sent if kind == "segment"]


async def by_source_in_cues() -> Said:
    return live_cues(SOURCES)


async def by_source_in_files() -> Said:
    files = [export(stored(SOURCES), suffix).decode() for suffix in ("vtt", "srt", "md")]
    patterns = (r"<v (.*?)>(.*)", r"(\w+): (.*)", r"\*\*[\d:]+ (\w+)\*\* (.*)")
    [said, *others] = map(re.findall, patterns, files)
    assert all(other == said for other in others)
    return said


async def by_source_natively() -> Said:
    protocol = LiveProtocol({}, ENGLISH)
    start = {"type": "start", "format": "s16le", "channels": 2, "sources": ["me", "them"]}
    protocol.received(json.dumps(start))
    closed = [one for one in outs_of(protocol, SOURCES) if one["type"] == "segment"]
    return [(one["source"], one["text"].strip()) for one in closed]


async def by_source_in_deepgram() -> Said:
    protocol = DeepgramProtocol({**PCM, "channels": "2", "multichannel": "true"}, ENGLISH)
    names = dict(zip(protocol.options_from_handshake().sources, ("me", "them"), strict=True))
    numbers = {name: source for source, name in names.items()}
    events = [type(one)(**{**fields(one), "source": numbers[one.source]}) for one in SOURCES]
    results = [one for one in outs_of(protocol, events) if one.get("is_final")]
    return [
        (names[str(one["channel_index"][0])], one["channel"]["alternatives"][0]["transcript"])
        for one in results
    ]


def fields(event: Event) -> dict:
    return {name: getattr(event, name) for name in event.__slots__}


@pytest.mark.parametrize(
    "said",
    [
        *(by_source_in_captions, by_source_in_cues, by_source_in_files),
        *(by_source_natively, by_source_in_deepgram),
    ],
)
async def test_words_have_their_source_exactly(said):
    assert await said() == [("me", "Hello"), ("them", "Hi")]


def test_asr_waits_for_speakers_and_corrects_lines_until_they_stand():
    protocol = AsrProtocol({}, ENGLISH)
    protocol.tell_speakers()
    protocol.connected()
    [opening, _] = protocol.received(bytes(320))
    assert opening.options.speakers
    assert AsrProtocol({"diarize": "false"}, ENGLISH).connected()
    with pytest.raises(ProtocolError, match="diarize"):
        AsrProtocol({"diarize": "yes"}, ENGLISH).connected()
    [first] = outs_of(protocol, [Words(0, words(" Hello", " there."))])
    # Until there is a line, the first speaker's is the right one.
    assert [(one["speaker"], one["text"]) for one in first["lines"]] == [(1, "Hello there.")]
    outs_of(protocol, [found(0, 0, 1, 0), SegmentClosed(0, 0, 28_000, " Hello there.")])
    [waiting] = outs_of(protocol, [Words(1, words(" Hi", at=3))])
    assert (len(waiting["lines"]), waiting["buffer_diarization"]) == (1, " Hi")
    [told] = outs_of(protocol, [found(1, 0, 0, 1)])
    assert [one["speaker"] for one in told["lines"]] == [1, 2]
    assert told["buffer_diarization"] == ""
    [changed] = outs_of(protocol, [found(0, 1, 1, 1)])
    assert [one["text"] for one in changed["lines"]] == ["Hello", "there.", "Hi"]
    outs_of(protocol, [SegmentClosed(1, 48_000, 60_000, " Hi")])
    for _ in range(200):  # ten seconds
        protocol.tick()
    assert [one for one in outs_of(protocol, [found(0, 0, 1, 1)]) if "lines" in one][-1][
        "lines"
    ] == changed["lines"], "it came too late"
