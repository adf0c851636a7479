"""Random but lawful conversations: what the real transcript makes of random engine messages."""

from hypothesis import strategies as st

from voxlive.engines.contract import EngineInfo
from voxlive.streaming.events import (
    Event,
    Flushed,
    Lag,
    LiveTranscript,
    SessionClosed,
    SessionWarning,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
)
from voxlive.values import SAMPLE_RATE, Word

ENGLISH = EngineInfo("test", "model-a", "cpu", 4, ("en",), note="a note")
POLYGLOT = EngineInfo("test", "model-b", "cpu", 4, (), default_delay_ms=480)

words = st.tuples(
    st.text("abc,.'é中\"\\<", min_size=1, max_size=8), st.integers(0, 9 * SAMPLE_RATE)
)
steps = st.one_of(
    st.tuples(st.just("commit"), st.lists(words, max_size=4)),
    st.tuples(st.just("draft"), st.text("ab 中", max_size=12)),
    st.tuples(st.just("close"), st.none()),
    st.tuples(st.just("lag"), st.floats(0, 60)),
    st.tuples(st.just("warning"), st.text("xyz", max_size=3)),
    st.tuples(st.just("flushed"), st.text("xyz", min_size=1, max_size=3)),
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Event]:
    """The events of a session that ends well, up to and with ``SessionClosed``."""
    transcript = LiveTranscript()
    events: list[Event | None] = [SpeechStarted(0)]
    now = 0
    for step, value in draw(st.lists(steps, max_size=30)):
        match step:
            case "commit":
                said = []
                for text, gap in value:
                    said.append(Word(f" {text}", now + gap, now + gap + 800))
                    now += gap + 800
                events.append(transcript.commit(tuple(said)))
            case "draft":
                events.append(transcript.set_draft(value))
            case "close":
                events += [SpeechStopped(now), transcript.set_draft(""), transcript.close_segment()]
                events.append(UtteranceEnded(now))
            case "lag":
                events.append(Lag(value))
            case "warning":
                events.append(SessionWarning("damaged", value))
            case "flushed":
                events.append(Flushed(value))
    events += [transcript.set_draft(""), transcript.close_segment(), SessionClosed(now + 100)]
    return [event for event in events if event is not None]
