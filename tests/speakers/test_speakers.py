"""The speakers of a stream: the pure tracker, whose words they are, the real encoder."""

from __future__ import annotations

import asyncio
import io
import pickle
import threading
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.clock_engine import ClockEngine
from support.counting import PCM, CountingEngine, LoudnessModel, events_of, of
from support.examples import examples
from support.server import serving
from support.tiny_speech import write_sortformer
from support.voices import Levels, labels_of
from support.wire import live, s16le

from voxlive.errors import EngineError
from voxlive.speakers.encoder import SpeakerDetector, SpeakerEncoder, SpeakersMissing, read_weights
from voxlive.speakers.labels import SpeakersFound
from voxlive.speakers.sortformer import FRAME, SortformerProcess, SpokenFrames
from voxlive.speakers.tracker import (
    SETTLED,
    WINDOW,
    Likeness,
    SpeakerOptionError,
    SpeakerOptions,
    SpeakerTracker,
)
from voxlive.streaming.events import Event, SessionError, Words
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.service import Service
from voxlive.vad.detector import CONTEXT, STATE, Silero, VoiceDetector
from voxlive.vad.gate import WINDOW as STEP
from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Samples


def voice(level: float, seconds: float) -> Samples:
    return np.full(int(seconds * SAMPLE_RATE), level, np.float32)


def quiet(seconds: float) -> Samples:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


class Angles:
    """A voice's vector has the level as its angle, in half turns."""

    likeness = Likeness()

    def embed(self, audio: Samples) -> Samples:
        angle = np.pi * audio.max()
        return np.array([np.cos(angle), np.sin(angle)], np.float32)


def track(
    audio: Samples, options: SpeakerOptions | None = None, network: Levels | Angles | None = None
) -> SpeakerTracker:
    tracker = SpeakerTracker(options or SpeakerOptions(), GateOptions())
    loud = LoudnessModel()
    network = network or Levels()

    def answer() -> None:
        if asked := tracker.ask:
            assert 0 < asked.end - asked.start <= WINDOW
            assert asked.end <= tracker.end
            tracker.hear(network.embed(audio[asked.start : asked.end]))

    for at in range(0, len(audio) - STEP + 1, STEP):
        [found], _ = loud.step(audio[None, at : at + STEP], None)
        tracker.push(float(found))
        answer()
    tracker.finish()
    answer()
    return tracker


A, B, C = (lambda s: voice(0.3, s)), (lambda s: voice(0.5, s)), (lambda s: voice(0.8, s))


def test_voices_get_numbers_in_the_order_in_which_they_are_heard():
    audio = np.concatenate([A(3), quiet(0.6), B(3), quiet(0.6), A(1.2), quiet(0.6), C(0.9)])
    tracker = track(audio)
    assert tracker.count == 3
    at = (1.5, 5.1, 7.8, 9.4)
    assert [tracker.speaker_at(int(s * SAMPLE_RATE)) for s in at] == [0, 1, 0, 2]
    parts = [*tracker.parts]
    assert all(one.end <= after.start for one, after in pairwise(parts))
    # What is too short for a voice of its own is the speaker's of before.
    short = track(np.concatenate([A(3), quiet(0.6), B(0.4)]))
    assert (short.count, short.speaker_at(len(audio))) == (1, 0)
    assert track(audio, SpeakerOptions(max_speakers=2)).count == 2
    assert track(audio, SpeakerOptions(speakers=1)).count == 1
    assert track(quiet(5)).speaker_at(SAMPLE_RATE) is None


def test_a_speaker_who_takes_over_without_a_pause_is_found_with_the_second_vector():
    tracker = track(np.concatenate([A(4), B(4), quiet(1)]))
    assert tracker.count == 2
    assert [tracker.speaker_at(int(s * SAMPLE_RATE)) for s in (1.0, 3.0, 5.5, 7.0)] == [0, 0, 1, 1]


def test_two_speakers_who_turn_out_to_be_one_are_one_from_then_on():
    """Somebody moves, so that they sound like another; what follows lies between both."""
    drawn = [0.2, 0.51, *[0.31, 0.4] * 5]
    pieces = [piece for level in drawn for piece in (voice(level, 1.5), quiet(0.5))]
    early = track(np.concatenate(pieces[:12]), network=Angles())
    assert {part.speaker for part in early.parts} == {0, 1}

    tracker = track(np.concatenate(pieces), network=Angles())
    speakers = [part.speaker for part in tracker.parts]
    assert 1 in speakers[:6]
    assert speakers[-4:] == [0] * 4
    settled = tracker.end - SETTLED
    assert all(part.speaker == 0 for part in tracker.parts if part.end > settled)
    # Nobody's number is somebody else's, as long as there are others.
    another = np.concatenate([*pieces, voice(0.95, 2)])
    assert track(another, network=Angles()).parts[-1].speaker == 2
    two = track(another, SpeakerOptions(max_speakers=2), network=Angles())
    assert two.parts[-1].speaker == 1


def test_bad_options_are_refused():
    for bad in ({"max_speakers": 0}, {"min_speech_ms": 50}, {"speakers": 9}, {"speakers": True}):
        with pytest.raises(SpeakerOptionError, match=next(iter(bad))):
            SpeakerOptions(**bad)
    with pytest.raises(EngineError, match="leave out vad"):
        SessionOptions(PCM, gate=None, speakers=SpeakerOptions())


TALK = np.concatenate([A(3), quiet(0.8), B(2.5), quiet(0.8), A(2), B(3), quiet(1), C(2)])


def run(audio: Samples, cuts: Sequence[int], network: object) -> list[Event]:
    return heard_by(SpeakerDetector(network), audio, cuts)


def heard_by(
    speakers: SpeakerDetector | SortformerProcess,
    audio: Samples,
    cuts: Sequence[int],
    engine: CountingEngine | ClockEngine | None = None,
) -> list[Event]:
    async def talk() -> list[Event]:
        service = Service(
            engine or CountingEngine(), VoiceDetector(LoudnessModel()), speakers=speakers
        )
        options = SessionOptions(PCM, speakers=SpeakerOptions(), stall_s=60)
        return await events_of(service, options, audio, cuts)

    return asyncio.run(talk())


@examples(15)
@given(st.lists(st.integers(1, len(TALK) - 1), unique=True, max_size=30))
def test_words_never_change_and_their_speakers_only_for_a_while(cuts: list[int]):
    said, labels = said_by_whom(run(TALK, sorted(cuts), Levels()))
    assert labels.keys() == said.keys()
    # However the audio was cut, in the end each word has the speaker that the tracker has there.
    tracker = track(TALK)
    for word, told in labels.items():
        assert told[-1] == tracker.speaker_at(said[word])
    assert {told[-1] for told in labels.values()} == {0, 1, 2}
    assert len(TALK) > SETTLED


def said_by_whom(
    events: list[Event],
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], list[int]]]:
    """Where each word has its middle, and whose it was said to be: what holds for any speakers."""
    said: dict[tuple[int, int], int] = {}
    labels: dict[tuple[int, int], list[int]] = {}
    counts: dict[int, int] = {}
    for event in events:
        if isinstance(event, Words):
            for word in event.words:
                number = counts.get(event.segment, 0)
                counts[event.segment] = number + 1
                said[event.segment, number] = (word.start + word.end) // 2
        if isinstance(event, SpeakersFound):
            for segment, first, last, speaker in event.ranges:
                assert speaker < event.speakers
                for number in range(first, last + 1):
                    assert event.upto - said[segment, number] <= SETTLED + SAMPLE_RATE
                    labels.setdefault((segment, number), []).append(speaker)
    assert labels.keys() <= said.keys()
    assert all(len(told) <= 2 for told in labels.values())
    return said, labels


@pytest.mark.long
def test_sortformer_hears_speakers_in_a_process_of_its_own(tmp_path):
    """The same contract, with random weights, however the audio is cut; it may die, and fail."""
    folder = str(write_sortformer(tmp_path / "sortformer"))
    whole = said_by_whom(heard_by(SortformerProcess(folder), TALK, (), ClockEngine()))
    cuts = [*range(3000, len(TALK), 17_001)]
    cut = heard_by(SortformerProcess(folder), TALK, cuts, ClockEngine())
    assert said_by_whom(cut) == whole
    said, labels = whole
    assert labels.keys() == said.keys()
    assert all(len(told) == 1 for told in labels.values())
    assert {told[0] for told in labels.values()} <= {0, 1, 2, 3}
    events = heard_by(SortformerProcess(str(tmp_path)), TALK, ())
    [error] = of(SessionError, events)
    assert (error.code, error.fatal) == ("vad_failed", True)
    for thread in threading.enumerate():
        if thread.name.startswith("sortformer"):
            thread.join(60)
            assert not thread.is_alive()


def test_frames_of_sortformer_are_parts_of_speakers():
    heard = SpokenFrames(SpeakerOptions(max_speakers=2), at=1000)
    heard.advance(8 * FRAME)
    rows = [[0, 0.1, 0.9, 0], [0, 0, 0.8, 0.7], [0.6, 0, 0.2, 0], [0, 0.4, 0, 0], [0, 0.9, 0, 0]]
    heard.hear(1000, 1000 + 5 * FRAME, np.array(rows, np.float32))
    heard.hear(1000 + 5 * FRAME, 1000 + 8 * FRAME, None)
    # Numbers are in the order of being heard; a third voice is the likelier one of two.
    assert [(part.start - 1000, part.end - 1000, part.speaker) for part in heard.parts] == [
        (0, 2 * FRAME, 0),
        (2 * FRAME, 3 * FRAME, 1),
        (4 * FRAME, 5 * FRAME, 0),
    ]
    assert (heard.known, heard.end, heard.count) == (1000 + 8 * FRAME, 1000 + 8 * FRAME, 2)


def test_an_encoder_that_fails_ends_the_session_and_one_that_is_missing_refuses_it(
    tmp_path, monkeypatch
):
    broken = SimpleNamespace(likeness=Likeness())
    [error] = of(SessionError, run(TALK, (), broken))
    assert (error.code, error.fatal) == ("vad_failed", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SpeakersMissing, match="voxlive models fetch speaker-encoder"):
        SpeakerDetector().prepare()


def test_a_pickle_makes_nothing_but_arrays():
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    file = io.BytesIO()
    for _ in range(4):
        pickle.dump(Harm(), file)
    with pytest.raises(pickle.UnpicklingError, match="no array"):
        read_weights(file.getvalue())


async def test_a_server_tells_two_voices_apart(server):
    """The real encoder: the same voice twice is one speaker, another one is another."""
    network = SpeakerEncoder()
    first, other = clip("doctor"), clip("market")
    assert np.linalg.norm(network.embed(first.samples[:WINDOW])) == pytest.approx(1, abs=1e-3)
    pause = np.zeros(SAMPLE_RATE, np.float32)
    audio = np.concatenate([first.samples, pause, other.samples, pause, first.samples])
    heard = await live(server.ws, s16le(audio), diarize=True)
    [ready] = heard.of("ready")
    assert ready["diarize"] == {
        "max_speakers": 8,
        "min_speech_ms": 500,
        "speakers": None,
        "profiles": False,
    }
    words = {}
    for message in heard.of("words"):
        for word in message["words"]:
            words.setdefault(message["segment"], []).append(word)
    speakers = {}
    for message in heard.of("speakers"):
        for named in message["ranges"]:
            begin, end = named["words"]
            for number in range(begin, end + 1):
                speakers[named["segment"], number] = named["speaker"]
    assert len(speakers) == sum(map(len, words.values()))
    said = [(words[s][n]["start"], speaker) for (s, n), speaker in sorted(speakers.items())]
    of_first = {speaker for start, speaker in said if start < first.duration}
    last = (len(audio) - len(first.samples)) / SAMPLE_RATE
    assert of_first == {speaker for start, speaker in said if start >= last} == {0}


@pytest.mark.long
async def test_a_server_starts_sortformer_for_the_first_session_that_asks(tmp_path):
    folder = str(write_sortformer(tmp_path / "sortformer"))
    audio = s16le(np.concatenate([clip("doctor").samples, np.zeros(SAMPLE_RATE, np.float32)]))
    with serving("--speaker-model", folder) as running:
        children = psutil.Process(running.process.pid).children

        def processes() -> int:
            return sum("voxlive.speakers.sortformer_child" in one.cmdline() for one in children())

        await live(running.ws, audio)
        assert processes() == 0
        heard = await live(running.ws, audio, diarize=True)
        assert processes() == 1
        count = sum(len(message["words"]) for message in heard.of("words"))
        assert len(labels_of(heard.messages)) == count > 0
    refused = pytest.raises(AssertionError, match="no Sortformer")
    with refused, serving("--speaker-model", str(tmp_path)):
        pass


@pytest.mark.endurance
def test_one_voice_for_ten_minutes_is_one_speaker_and_no_voice_is_none():
    silero, encoder = Silero(), SpeakerEncoder()

    def speakers(audio: Samples) -> int:
        tracker = SpeakerTracker(SpeakerOptions(), GateOptions())
        padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
        state = np.zeros((2, 1, STATE), np.float32)
        for at in range(0, len(audio) - STEP + 1, STEP):
            probability, state = silero.step(padded[None, at : at + CONTEXT + STEP], state)
            tracker.push(float(probability[0]))
            if asked := tracker.ask:
                tracker.hear(encoder.embed(audio[asked.start : asked.end]))
        return tracker.count

    alone = clip("minute").samples
    assert speakers(np.tile(alone, 600 * SAMPLE_RATE // len(alone) + 1)) == 1
    t = np.arange(60 * SAMPLE_RATE) / SAMPLE_RATE
    chords = sum(np.sin(2 * np.pi * f * t) for f in (220, 277, 330)) * (1 + np.sin(4 * t)) / 20
    noise = np.random.default_rng(0).standard_normal(len(t)) / 20
    assert [speakers(one.astype(np.float32)) for one in (0 * t, noise, chords)] == [0, 0, 0]
