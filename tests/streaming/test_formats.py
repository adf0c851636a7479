import json

from voxlive.streaming.events import Word
from voxlive.streaming.formats import WRITERS, verbose_json
from voxlive.streaming.transcribe import Segment, Transcription

WORDS = (Word("Good", 1600, 8000, 0.9), Word(" day.", 8000, 16_000))
SAID = Transcription(
    (Segment(0, 1600, 16_000, "Good day.", WORDS), Segment(1, 32_000, 40_000, " Bye", ())),
    "Good day. Bye",
    2.5,
    "en",
)
NOTHING = Transcription((), "", 3.0, None)


def test_every_writer_says_the_words():
    for name, write in WRITERS.items():
        assert "Good day." in write(SAID), name


def test_every_writer_takes_an_empty_transcription():
    assert {name: write(NOTHING) for name, write in WRITERS.items()} == {
        "text": "\n",
        "json": '{"text": "", "usage": {"type": "duration", "seconds": 3}}',
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "verbose_json": '{"task": "transcribe", "language": null, "duration": 3.0, "text": "", '
        '"segments": [], "words": [], "usage": {"type": "duration", "seconds": 3}}',
    }


def test_verbose_json_lists_what_is_wanted_in_seconds():
    full = json.loads(verbose_json(SAID))
    assert full["segments"] == [
        {"id": 0, "start": 0.1, "end": 1.0, "text": "Good day."},
        {"id": 1, "start": 2.0, "end": 2.5, "text": "Bye"},
    ]
    assert full["words"] == [
        {"word": "Good", "start": 0.1, "end": 0.5},
        {"word": "day.", "start": 0.5, "end": 1.0},
    ]
    assert (full["language"], full["duration"], full["text"]) == ("en", 2.5, "Good day. Bye")
    assert "segments" not in json.loads(verbose_json(SAID, segments=False))
    assert "words" not in json.loads(verbose_json(SAID, words=False))
