"""The query of Deepgram's URL: which session it asks for."""

import pytest
from support.conversations import ENGLISH

from voxlive.vad.gate import GateOptions
from voxlive.web.protocols.deepgram import DeepgramProtocol

PCM = {"encoding": "linear16", "sample_rate": "16000"}


def options(**params):
    return DeepgramProtocol(params, ENGLISH).options_from_handshake()


@pytest.mark.conforms(
    "Deepgram",
    "`linear16`, `linear32`, `mulaw`, `alaw` with a `sample_rate`, 1 to 8 channels mixed into one",
    "works",
)
@pytest.mark.parametrize(
    ("encoding", "decoded_as"),
    [("linear16", "s16le"), ("linear32", "s32le"), ("mulaw", "mulaw"), ("alaw", "alaw")],
)
def test_pcm_formats(encoding, decoded_as):
    audio = options(encoding=encoding, sample_rate="8000", channels="2", multichannel="false").audio
    assert (audio.encoding, audio.rate, audio.channels) == (decoded_as, 8000, 2)


@pytest.mark.conforms(
    "Deepgram",
    "no `encoding`, `flac`, `ogg-opus`, `opus`: FLAC, Ogg, WebM, MP4, MP3, AAC, WAV",
    "works; bare Opus packets do not",
)
@pytest.mark.parametrize("encoding", [None, "opus", "ogg-opus", "flac"])
def test_other_encodings_are_containers(encoding):
    assert options(**({"encoding": encoding} if encoding else {})).audio.encoding == "container"


@pytest.mark.conforms(
    "Deepgram",
    "`punctuate`, `smart_format`, `numerals`, `filler_words`, `dictation`, "
    "`language_hint`, `no_delay`, `tag`, `extra`, `version`, `mip_opt_out` "
    "and unknown names",
    "ignored",
)
def test_options_without_effect_and_unknown_ones_are_ignored():
    plain = options(**PCM)
    asked = options(
        **PCM,
        **dict.fromkeys(("punctuate", "smart_format", "numerals", "filler_words"), "true"),
        **dict.fromkeys(("diarize", "profanity_filter", "multichannel"), "False"),
        model="nova-3",
        keyterm="voxlive",
        keywords="voxlive:2",
        tag="mine",
        not_invented_yet="?",
    )
    assert asked == plain
    assert plain.gate == GateOptions()
    assert (plain.stream.language, plain.stream.drafts) == (None, False)


def test_language_and_interim_results_reach_the_engine():
    stream = options(**PCM, language="en-US", interim_results="true").stream
    assert (stream.language, stream.drafts) == ("en", True)
    assert options(**PCM, language="multi").stream.language is None


@pytest.mark.conforms(
    "Deepgram",
    "`endpointing`",
    "the pause that ends an utterance: what suits the model unless given, from 300 ms up; with "
    "`false` no result is `speech_final`",
)
@pytest.mark.parametrize(
    ("value", "pause_ms"),
    [("true", None), ("false", None), ("10", 300), ("25", 300), ("300", 300), ("1200", 1200)],
)
def test_endpointing_is_the_pause_that_ends_an_utterance(value, pause_ms):
    assert options(**PCM, endpointing=value).gate == GateOptions(min_silence_ms=pause_ms)
    assert options(**PCM, endpointing="99999").gate.min_silence_ms == 10_000
