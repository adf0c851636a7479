import pytest
from support.clips import clip
from support.encode import encode

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.sniff import HEAD, mp4_index_is_last, sniff


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("WebM", b"\x1aE\xdf\xa3\x9fB\x86\x81"),
        ("Ogg", b"OggS\x00\x02"),
        ("MP4", b"\x00\x00\x00\x1cftypM4A "),
        ("MP4", b"\x00\x00\x0a\x1cmoov"),
        ("FLAC", b"fLaC\x00\x00\x00\x22"),
        ("WAV", b"RIFF\x0a\x0a\x0a\x00WAVEfmt "),
        ("WAV", b"RF64\xff\xff\xff\xffWAVEds64"),
        ("AVI", b"RIFF\x0a\x0a\x0a\x00AVI LIST"),
        ("AIFF", b"FORM\x00\x0a\x0a\x00AIFC"),
        ("E-AC-3", b"\x0bw\x00\xbf\x20\x80"),
        ("MP3", b"\xff\xfb\x90\x64"),
        ("MP3", b"\xff\xf3\x44\xc4"),
        ("AAC", b"\xff\xf1\x50\x80"),
    ],
)
def test_containers_are_recognised_by_their_first_bytes(name, head):
    assert sniff(head.ljust(HEAD, b"\0")).name == name


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"RIFF\x0a\x0a\x0a\x00ACONLIST", "the header of no format that is known"),
        (b"\x00" * 16, "the header of no format that is known"),
        (b"\xff\xff\xff\xff", "the header of no format that is known"),
        (b"\xff\xfb\xff\xff", "the header of no format that is known"),
        (b"OGGS", "it is text"),
        (b"#EXTM3U\nhttp://x", "it is text"),
        ("Grüße aus Köl".encode()[:-1], "it is text"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"PK\x03\x04\x14\x00", "it is a ZIP archive or an office document"),
        (b"\x89PNG\r\n\x1a\n", "it is a picture"),
    ],
)
def test_anything_else_is_refused_by_what_it_is(head, kind):
    with pytest.raises(BadAudio, match="none of WebM, Ogg, MP4, FLAC") as caught:
        sniff(head)
    assert str(caught.value).endswith(kind)


def test_empty_audio_is_refused():
    with pytest.raises(BadAudio, match="it is empty"):
        sniff(b"")


def test_an_mp4s_index_is_located_as_soon_as_it_is_seen():
    last = encode(clip("yes").samples, "mp4", "aac", 44_100)
    first = encode(clip("yes").samples, "mp4", "aac", 44_100, movflags="faststart")
    for data, expected in ((last, True), (first, False)):
        at = min(data.find(b"mdat"), data.find(b"moov"))
        assert mp4_index_is_last(data[: at + 3]) is None
        assert mp4_index_is_last(data[: at + 4]) is expected
    assert mp4_index_is_last(bytes(64)) is None
