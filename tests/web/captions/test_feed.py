"""Feeds and what is written of them, without sockets."""

import json
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.runners.subtitles import CueStyle
from voxlive.streaming.events import Draft, Flushed, SegmentClosed, Word, Words
from voxlive.web.captions import sse
from voxlive.web.captions.feed import (
    MAX_READERS,
    MAX_SEGMENTS,
    MAX_UNREAD,
    Closed,
    Feed,
    Feeds,
    Snapshot,
    TooManyReaders,
    is_name,
)
from voxlive.web.captions.vtt import LiveCues

GOOD, DAY = Word("Good", 1600, 8000), Word(" day.", 8000, 16_000)


def spoken(feed: Feed, segment: int, *words: Word) -> None:
    feed.tell(Words(segment, words))
    text = "".join(word.text for word in words)
    feed.tell(SegmentClosed(segment, words[0].start, words[-1].end, text))


async def snapshot_of(feed: Feed) -> Snapshot:
    async with aclosing(feed.read()) as reader:
        return await anext(reader)


async def test_a_reader_gets_what_was_said_and_then_what_is_said():
    feed = Feed("s1", "stage", "/v1/live")
    spoken(feed, 0, GOOD)
    feed.tell(Words(1, (DAY,)))
    feed.tell(Draft(1, " and"))
    feed.tell(Flushed("x"))
    reader = feed.read()
    snapshot = await anext(reader)
    assert [closed.text for closed in snapshot.segments] == ["Good"]
    assert (snapshot.words, snapshot.draft) == ((DAY,), " and")
    feed.tell(SegmentClosed(1, 8000, 16_000, " day."))
    closed = await anext(reader)
    assert (closed.text, closed.words) == (" day.", (DAY,))
    feed.close()
    assert [caption async for caption in reader] == []


async def test_a_reader_that_falls_behind_is_let_go_and_the_others_read_on():
    feed = Feed("s1", "s1", "/asr")
    slow, quick = feed.read(), feed.read()
    await anext(slow)
    await anext(quick)
    for n in range(MAX_UNREAD + 5):
        feed.tell(Draft(0, str(n)))
        assert await anext(quick) == Draft(0, str(n))
    assert len([caption async for caption in slow]) == MAX_UNREAD
    assert (await snapshot_of(feed)).draft == str(MAX_UNREAD + 4)


async def test_a_feed_is_bounded():
    feed = Feed("s1", "s1", "/asr")
    for n in range(MAX_SEGMENTS + 10):
        spoken(feed, n, GOOD)
    segments = (await snapshot_of(feed)).segments
    assert [closed.id for closed in segments] == [*range(10, MAX_SEGMENTS + 10)]
    readers = [feed.read() for _ in range(MAX_READERS)]
    for reader in readers:
        await anext(reader)
    with pytest.raises(TooManyReaders):
        await snapshot_of(feed)
    await readers[0].aclose()
    assert await snapshot_of(feed)


async def test_silence_is_told_so_that_the_connection_lives():
    feed = Feed("s1", "s1", "/asr")
    reader = feed.read(keep_alive_s=0.001)
    await anext(reader)
    assert await anext(reader) is None


def test_the_newest_session_of_a_name_has_it():
    feeds = Feeds()
    first, second = feeds.open("s1", "stage", "/asr"), feeds.open("s2", "stage", "/asr")
    assert feeds.find("stage") is second
    assert feeds.find("s1") is first
    feeds.close(second)
    assert feeds.find("stage") is first
    feeds.close(first)
    assert feeds.find("stage") is None
    assert list(feeds) == []


def test_names_can_stand_in_an_address():
    assert is_name("Bühne 1 <b>")
    assert not any(map(is_name, ["", "a/b", "a\nb", "x" * 65]))


@pytest.mark.parametrize("text", ["a\n\ndata: x", "<script>", "日本", '"quoted" \\ \u2028'])
def test_an_event_is_one_line_of_json(text):
    written = sse.event(Words(0, (Word(text, 0, 1600),)))
    kind, data, *rest = written.split("\n")
    assert (kind, rest) == ("event: words", ["", ""])
    assert json.loads(data.removeprefix("data: "))["text"] == text


words = st.lists(
    st.tuples(
        st.text("abc,.", min_size=1, max_size=12), st.integers(0, 24_000), st.integers(1, 24_000)
    ),
    min_size=1,
    max_size=30,
)


@given(st.lists(words, max_size=4), st.integers(1, 5))
async def test_live_cues_say_every_word_once_in_order(said, together):
    """Words come a few at a time; a cue never changes, so what is written is all there is."""
    feed, cues, now = Feed("s", "s", "/"), LiveCues(CueStyle()), 0
    reader, expected = feed.read(), ""
    written = cues.heard(await anext(reader))
    for segment, spec in enumerate(said):
        heard = []
        for text, gap, length in spec:
            heard.append(Word(f" {text}", now + gap, now + gap + length))
            now += gap + length
        for at in range(0, len(heard), together):
            feed.tell(Words(segment, tuple(heard[at : at + together])))
        whole = "".join(word.text for word in heard)
        feed.tell(SegmentClosed(segment, heard[0].start, heard[-1].end, whole))
        expected += whole
    feed.close()
    async for caption in reader:
        written += cues.heard(caption)
    blocks = [block.split("\n") for block in written.split("\n\n") if block]
    assert "".join("".join(block[1:]) for block in blocks).replace(" ", "") == expected.replace(
        " ", ""
    )
    stamps = [stamp for block in blocks for stamp in block[0].split(" --> ")]
    assert stamps == sorted(stamps)


def test_a_long_speech_is_written_before_it_ends():
    cues = LiveCues()
    heard = [Word(f" word{n}", n * 8000, (n + 1) * 8000) for n in range(40)]
    written = [cues.heard(Words(0, (word,))) for word in heard]
    assert sum(map(bool, written)) >= 2
    text = "".join(word.text for word in heard)
    written.append(cues.heard(Closed(0, 0, 40 * 8000, text, tuple(heard))))
    assert all(f"word{n}" in "".join(written) for n in range(40))


@pytest.mark.parametrize(("received", "end"), [(None, "00:00:02.000"), (20_000, "00:00:01.250")])
def test_a_live_cue_does_not_outlast_the_audio(received, end):
    heard = (Word(" yes", 16_000, 19_200),)
    written = LiveCues().heard(Closed(0, 16_000, 19_200, " yes", heard, received))
    assert written == f"00:00:01.000 --> {end}\nyes\n\n"
