"""Terms, tasks, replacements and found languages, in every protocol with a field for them."""

import json
from dataclasses import replace

import httpx
import pytest
from starlette.datastructures import QueryParams
from support.conversations import ENGLISH, POLYGLOT
from support.talk import AUDIO_START, OPTIONS, append, mistral_append
from wyoming.event import Event

from voxlive.errors import ProtocolError
from voxlive.runners.contract import Transcript
from voxlive.streaming.events import LanguageDetected, SegmentClosed, SessionClosed, Words
from voxlive.streaming.replacements import Replacements
from voxlive.values import Word
from voxlive.web.protocols.asr import AsrProtocol
from voxlive.web.protocols.contract import OpenSession
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.deepgram.wire import read_query
from voxlive.web.protocols.mistral import MistralProtocol
from voxlive.web.protocols.realtime import RealtimeProtocol
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.protocols.wyoming import WyomingProtocol
from voxlive.web.rest import listen

ABLE = replace(POLYGLOT, takes_language=True, vocabulary=(), no_translation=None)
PCM = [("encoding", "linear16"), ("sample_rate", "16000")]
SILENCE = bytes(3200)
FOUND = LanguageDetected("de", 0.9)
SPOKEN = Words(0, (Word("Ja", 0, 8000, 0.9),))
CLOSED = SegmentClosed(0, 0, 8000, "Ja")


def opened(protocol, *frames):
    """The stream's options of the session that opens with these frames, and what was replied."""
    replies = []
    for frame in frames:
        for action in protocol.received(json.dumps(frame) if isinstance(frame, dict) else frame):
            if isinstance(action, OpenSession):
                protocol.opened("id", action.options)
                return action.options.stream, replies
            replies.append(json.loads(action.frame))
    raise AssertionError("no session was opened")


def openai(info):
    transcription = {
        "model": "m",
        "prompt": "Anne Elliot, Lyme\nThis is a talk about ships and the sea.",
        "keywords": ["Bath"],
    }
    session = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
    update = {"type": "session.update", "session": session}
    stream, [updated] = opened(RealtimeProtocol({}, info), update, append(SILENCE))
    shown = updated["session"]["audio"]["input"]["transcription"]
    assert shown["prompt"] == (transcription["prompt"] if info is ABLE else None)
    assert shown.get("keywords") == (["Bath"] if info is ABLE else None)
    return stream


def openai_beta(info):
    session = {"input_audio_transcription": {"prompt": "Bath; Anne Elliot; Lyme"}}
    update = {"type": "transcription_session.update", "session": session}
    return opened(RealtimeProtocol({}, info), update, append(SILENCE))[0]


def deepgram(info):
    query = [*PCM, ("keyterm", "Anne Elliot"), ("keyterm", "Lyme"), ("keywords", "Bath:2.5")]
    return DeepgramProtocol(QueryParams(query), info).options_from_handshake().stream


def mistral(info):
    session = {"context_bias": ["Bath", "Anne Elliot", 5, "Lyme"]}
    update = {"type": "session.update", "session": session}
    return opened(MistralProtocol({"model": "m"}, info), update, mistral_append(SILENCE))[0]


def whisper_live(info):
    frame = {**OPTIONS, "hotwords": "Lyme, Bath, Anne Elliot"}
    return opened(WhisperLiveProtocol({}, info), frame)[0]


def wyoming(info):
    protocol = WyomingProtocol(info)
    hints = {"transcript_names": ["Anne Elliot"], "transcript_terms": ["Bath", "Lyme"]}
    protocol.received(Event("transcribe", hints))
    [opening] = protocol.received(AUDIO_START)
    protocol.received(Event("audio-stop"))
    [following] = protocol.received(AUDIO_START)
    assert following.options.stream.vocabulary == ()
    return opening.options.stream


@pytest.mark.conforms(
    "OpenAI",
    "`transcription.prompt`, `keywords`",
    "names and terms, where the engine takes a vocabulary: the keywords, and what stands between "
    "a prompt's commas, semicolons and line ends; a piece of more than five words is a sentence, "
    "and ignored. Other engines: ignored, null in `session.updated`",
)
@pytest.mark.conforms(
    "Mistral",
    "`context_bias`",
    "names and terms, where the engine takes a vocabulary; else ignored",
)
@pytest.mark.conforms(
    "Deepgram",
    "`keyterm`, `keywords`",
    "names and terms, where the engine takes a vocabulary, without their boost; else ignored",
)
@pytest.mark.conforms(
    "WhisperLive",
    "`hotwords`",
    "names and terms with commas between, where the engine takes a vocabulary; else ignored",
)
@pytest.mark.conforms(
    "Wyoming",
    "`transcribe` with `transcript_names`, `transcript_terms`",
    "names and terms, where the engine takes a vocabulary; else ignored",
)
@pytest.mark.parametrize(
    "endpoint", [openai, openai_beta, deepgram, mistral, whisper_live, wyoming]
)
def test_names_and_terms_are_a_vocabulary_where_the_engine_takes_one(endpoint):
    assert set(endpoint(ABLE).vocabulary) == {"Anne Elliot", "Lyme", "Bath"}
    assert endpoint(ENGLISH).vocabulary == ()


@pytest.mark.conforms(
    "Deepgram",
    "`replace=find:replacement`, several times",
    "works: whole words and phrases, without case; with nothing behind `:` they are left out",
)
def test_deepgrams_replacements():
    query = [*PCM, ("replace", "vox live:voxlive"), ("replace", "um:"), ("replace", "hm")]
    options = DeepgramProtocol(QueryParams(query), ENGLISH).options_from_handshake()
    assert options.replacements == Replacements.of({"vox live": "voxlive", "um": "", "hm": ""})
    long = QueryParams([*PCM, ("replace", "a b c d e f:g")])
    with pytest.raises(ProtocolError, match="too long") as refused:
        DeepgramProtocol(long, ENGLISH).options_from_handshake()
    assert refused.value.code == "bad_parameter"


@pytest.mark.conforms(
    "Deepgram's files",
    "`replace`",
    "refused: words of files are not replaced",
)
def test_deepgrams_replacements_are_refused_for_a_file(server):
    answer = httpx.post(f"{server.url}/v1/listen?replace=a:b", content=b"RIFF", timeout=60)
    assert answer.status_code == 400
    assert "leave out replace" in answer.json()["err_msg"]


@pytest.mark.conforms(
    "WhisperLive",
    "`task` `translate`",
    "into English, by a multilingual Whisper; else refused: `ERROR`, close 4400",
)
def test_whisper_lives_task():
    assert opened(WhisperLiveProtocol({}, ABLE), {**OPTIONS, "task": "translate"})[0].task == (
        "translate"
    )
    with pytest.raises(ProtocolError, match="does not translate"):
        opened(WhisperLiveProtocol({}, ENGLISH), {**OPTIONS, "task": "translate"})


def sent(protocol, *events) -> list[dict]:
    outs = [out for event in events for out in protocol.on_event(event)]
    return [json.loads(out) for out in [*outs, *protocol.tick()] if isinstance(out, str)]


@pytest.mark.conforms(
    "OpenAI",
    "`languages` in `completed`",
    "the language that the model has found out, where it has",
)
def test_openais_completed_items_have_the_language():
    update = {"type": "session.update", "session": {"audio": {"input": {}}}}
    protocol = RealtimeProtocol({}, ABLE)
    opened(protocol, update, append(SILENCE * 5))
    protocol.received(json.dumps({"type": "input_audio_buffer.commit"}))
    messages = sent(protocol, FOUND, SPOKEN, CLOSED, SessionClosed(8000))
    [completed] = [message for message in messages if message["type"].endswith(".completed")]
    assert completed["languages"] == [{"code": "de"}]


@pytest.mark.conforms(
    "Deepgram",
    "`languages` of an alternative",
    "the language that the model has found out, where it has",
)
def test_deepgrams_alternatives_have_the_language():
    protocol = DeepgramProtocol(QueryParams([*PCM, ("language", "multi")]), ABLE)
    protocol.opened("id", protocol.options_from_handshake())
    [results, _] = sent(protocol, FOUND, SPOKEN, SessionClosed(8000))
    [alternative] = results["channel"]["alternatives"]
    assert alternative["languages"] == ["de"]


@pytest.mark.conforms(
    "Deepgram's files",
    "`detected_language` of a channel, `languages` of an alternative",
    "the language that the model has found out, where none was given and it has",
)
def test_deepgrams_channel_of_a_file_has_the_language():
    transcript = Transcript("Ja", (), 1.0, language="de")
    for asked, found in ((None, "de"), ("de", None)):
        query = read_query({"language": asked} if asked else {})
        [channel] = listen._results(transcript, query)["channels"]
        assert channel.get("detected_language") == found
        assert channel["alternatives"][0].get("languages") == ([found] if found else None)


@pytest.mark.conforms(
    "Mistral",
    "`transcription.language`, `language` of `transcription.done`",
    "what the model has found out, where it has; else the one is not sent, the other null",
)
def test_mistral_has_a_message_for_the_language():
    protocol = MistralProtocol({"model": "m"}, ABLE)
    opened(protocol, mistral_append(SILENCE))
    [found, _delta, done] = sent(protocol, FOUND, SPOKEN, SessionClosed(8000))
    assert found == {"type": "transcription.language", "audio_language": "de"}
    assert done["language"] == "de"


def test_lines_of_asr_have_the_detected_language():
    protocol = AsrProtocol({}, ABLE)
    protocol.connected()
    opened(protocol, SILENCE)
    [update] = sent(protocol, FOUND, SPOKEN, CLOSED)
    assert [line["detected_language"] for line in update["lines"]] == ["de"]
    other = AsrProtocol({}, ENGLISH)
    other.connected()
    opened(other, SILENCE)
    [update] = sent(other, SPOKEN, CLOSED)
    assert "detected_language" not in update["lines"][0]


@pytest.mark.conforms(
    "WhisperLive",
    "`language`, `language_prob`",
    "one message, with what the model has found out, where it has",
)
def test_whisper_live_has_a_message_for_the_language():
    protocol = WhisperLiveProtocol({}, ABLE)
    opened(protocol, OPTIONS)
    [found] = [json.loads(out) for out in protocol.on_event(FOUND)]
    assert found == {"uid": OPTIONS["uid"], "language": "de", "language_prob": 0.9}


@pytest.mark.conforms(
    "Wyoming",
    "`language` of `transcript`",
    "what the model has found out, where it has",
)
def test_wyomings_transcript_has_the_language_of_its_utterance():
    protocol = WyomingProtocol(ABLE)
    for found in (FOUND, None):
        [opening] = protocol.received(AUDIO_START)
        protocol.opened(opening.options)
        protocol.received(Event("audio-stop"))
        events = [*([found] if found else []), SPOKEN, SessionClosed(8000)]
        outs = [out for event in events for out in protocol.on_event(event)]
        [transcript] = [out for out in outs if out.type == "transcript"]
        assert transcript.data.get("language") == ("de" if found else None)
