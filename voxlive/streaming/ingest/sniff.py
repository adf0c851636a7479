"""The containers that are supported, and which one a stream is, by its first bytes.

``CONTAINERS`` is the one table of containers: refusals, the folders of ``voxlive transcribe`` and
the table in docs/batch.md are made from it. ``DECODERS`` is the one of codecs. The demuxer is
chosen here and not by libav's own probing: that would also try playlists and other formats that
open further files, takes any noise for MP3, and waits for more bytes than it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from voxlive.errors import BadAudio

HEAD = 16
FAR_HEAD = 200  # MPEG-TS repeats its first byte after a packet
PART_HEAD = 24
_MP4_BOXES = b"ftyp|styp|moov|mdat|wide|free|skip|pnot"


@dataclass(frozen=True, slots=True)
class Container:
    """One container: its first bytes, libav's name for its demuxer, the endings of its files.

    ``states_length``: its header states a length that the last packet must reach. ``partial``: a
    last packet that is not whole is left by a cut. ``seeks``: a file of it may have to be sought
    in. ``from_first``: its clock starts anywhere, so that its first time stamp is 0. ``pages``:
    Ogg's, ``chunks``: RIFF's, ``elements``: Matroska's; all are checked before libav reads them.
    ``exact``: time stamps are those of samples, ``gapless``: and leave no gap unless something is
    lost. ``probe``: bytes to look through for tracks that no header names. ``part_size``: from the
    PART_HEAD bytes that one of its parts begins with, how many bytes later the next one begins;
    None where that is not stated.
    """

    name: str
    demuxer: str
    start: re.Pattern[bytes]
    endings: str
    states_length: bool = False
    partial: bool = True
    seeks: bool = False
    from_first: bool = False
    pages: bool = False
    chunks: bool = False
    elements: bool = False
    exact: bool = False
    gapless: bool = False
    probe: int = 32
    part_size: Callable[[bytes], int | None] | None = None


def _mp4_box(head: bytes) -> int | None:
    size = int.from_bytes(head[:4], "big")
    size = int.from_bytes(head[8:16], "big") if size == 1 else size
    return size if size >= 8 and head[4:8].isalnum() else None


def _caf_chunk(head: bytes) -> int | None:
    if head.startswith(b"caff"):
        return 8
    size = int.from_bytes(head[4:12], "big", signed=True)
    return 12 + size if size >= 0 else None


def _aiff_form(head: bytes) -> int | None:
    size = int.from_bytes(head[4:8], "big")
    return 8 + size + size % 2 if size and head.startswith(b"FORM") else None


def _w64_file(head: bytes) -> int | None:
    size = int.from_bytes(head[16:24], "little")
    return -(-size // 8) * 8 if head.startswith(b"riff") and size else None


def _of(start: bytes) -> re.Pattern[bytes]:
    return re.compile(start, re.S)


_EXACT: dict[str, Any] = {"partial": False, "exact": True}
_PCM: dict[str, Any] = {"states_length": True, **_EXACT}

CONTAINERS = (
    Container(
        "WebM", "matroska", _of(rb"\x1aE\xdf\xa3"), "webm weba mkv mka mk3d", True, elements=True
    ),
    Container(
        "Ogg",
        "ogg",
        _of(rb"OggS"),
        "ogg oga ogv ogx opus spx",
        partial=False,
        pages=True,
        exact=True,
    ),
    Container(
        "MP4",
        "mov",
        _of(rb"....(?:" + _MP4_BOXES + rb")"),
        "mp4 m4a m4b m4v mov 3gp 3g2 f4v",
        states_length=True,
        seeks=True,
        exact=True,
        part_size=_mp4_box,
    ),
    Container("FLAC", "flac", _of(rb"fLaC"), "flac", gapless=True, **_PCM),
    Container(
        "WAV", "wav", _of(rb"(?:RIFF|RF64|BW64)....WAVE"), "wav bwf", chunks=True, partial=False
    ),
    Container("W64", "w64", _of(rb"riff\x2e\x91\xcf\x11"), "w64", part_size=_w64_file, **_PCM),
    Container(
        "AIFF",
        "aiff",
        _of(rb"FORM....AIF[FC]"),
        "aiff aif aifc",
        seeks=True,
        part_size=_aiff_form,
        **_PCM,
    ),
    Container("AU", "au", _of(rb"\.snd"), "au snd", **_PCM),
    Container("CAF", "caf", _of(rb"caff"), "caf", seeks=True, part_size=_caf_chunk, **_PCM),
    Container(
        "VOC", "voc", _of(rb"Creative Voice File\x1a|Creative Voice F"), "voc", partial=False
    ),
    Container("SPHERE", "nistsphere", _of(rb"NIST_1A"), "sph nist", **_PCM),
    Container("AVI", "avi", _of(rb"RIFF....AVI "), "avi", seeks=True),
    Container("ASF", "asf", _of(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "wma wmv asf"),
    Container("FLV", "flv", _of(rb"FLV\x01"), "flv", from_first=True, probe=1 << 16),
    Container(
        "MPEG-TS",
        "mpegts",
        _of(rb"\x47(?:.{187}\x47)|.{4}\x47.{191}\x47"),
        "ts mts m2ts",
        from_first=True,
    ),
    Container(
        "MPEG-PS",
        "mpeg",
        _of(rb"\x00\x00\x01\xba"),
        "mpg mpeg mpega vob",
        from_first=True,
        probe=1 << 18,
    ),
    Container("AC-3", "ac3", _of(rb"\x0bw...[\x00-\x57]"), "ac3", partial=False),
    Container("E-AC-3", "eac3", _of(rb"\x0bw...[\x58-\x87]"), "eac3 ec3", partial=False),
    Container("AMR", "amr", _of(rb"#!AMR(?:-WB)?\n"), "amr awb"),
    Container("WavPack", "wv", _of(rb"wvpk"), "wv", states_length=True),
    Container("TTA", "tta", _of(rb"TTA1"), "tta", states_length=True),
    Container("RealMedia", "rm", _of(rb"\.RMF"), "rm ra"),
    Container("AAC", "", _of(rb"\xff[\xf0\xf1\xf8\xf9]"), "aac adts"),
    Container(
        "MP3",
        "",
        _of(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][^\xf0-\xff]"),
        "mp3 mp2 mp1 mpa",
    ),
)
NAMES = ", ".join(container.name for container in CONTAINERS)
ENDINGS = frozenset(ending for one in CONTAINERS for ending in one.endings.split())

# By the names of libav's decoders.
DECODERS = frozenset(
    [
        "aac",
        "aac_latm",
        "ac3",
        "alac",
        "als",
        "amrnb",
        "amrwb",
        "libopencore_amrnb",
        "libopencore_amrwb",
        "cook",
        "dca",
        "eac3",
        "flac",
        "g722",
        "g723_1",
        "g726",
        "g726le",
        "gsm",
        "gsm_ms",
        "mlp",
        "mp1",
        "mp1float",
        "mp2",
        "mp2float",
        "mp3",
        "mp3float",
        "mp3adu",
        "mp3adufloat",
        "nellymoser",
        "opus",
        "libopus",
        "qdm2",
        "qdmc",
        "real_144",
        "real_288",
        "s302m",
        "sipr",
        "speex",
        "libspeex",
        "truehd",
        "truespeech",
        "tta",
        "vorbis",
        "libvorbis",
        "wavpack",
        "wmalossless",
        "wmapro",
        "wmav1",
        "wmav2",
        "wmavoice",
        "adpcm_ima_qt",
        "adpcm_ima_wav",
        "adpcm_ms",
        "adpcm_swf",
        "adpcm_yamaha",
        "adpcm_sbpro_2",
        "adpcm_sbpro_3",
        "adpcm_sbpro_4",
        "mace3",
        "mace6",
        "pcm_alaw",
        "pcm_bluray",
        "pcm_dvd",
        "pcm_mulaw",
        "pcm_f16le",
        "pcm_f24le",
        "pcm_f32be",
        "pcm_f32le",
        "pcm_f64be",
        "pcm_f64le",
        "pcm_s16be",
        "pcm_s16be_planar",
        "pcm_s16le",
        "pcm_s16le_planar",
        "pcm_s24be",
        "pcm_s24le",
        "pcm_s24le_planar",
        "pcm_s32be",
        "pcm_s32le",
        "pcm_s32le_planar",
        "pcm_s64be",
        "pcm_s64le",
        "pcm_s8",
        "pcm_s8_planar",
        "pcm_u16be",
        "pcm_u16le",
        "pcm_u24be",
        "pcm_u24le",
        "pcm_u32be",
        "pcm_u32le",
        "pcm_u8",
    ]
)


_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GIF8", "a picture"),
)
"""How files begin that are sent in place of audio."""


def sniff(head: bytes) -> Container:
    """The container that begins with these bytes; raises BadAudio when none does.

    HEAD bytes are enough for all but MPEG-TS, which needs FAR_HEAD.
    """
    for container in CONTAINERS:
        if container.start.match(head):
            return container
    raise BadAudio(f"the audio is none of {NAMES}: {_kind(head)}")


def _kind(head: bytes) -> str:
    """What bytes that are no audio are instead, in words."""
    if not head:
        return "it is empty"
    for begin, kind in _OTHERS:
        if head.startswith(begin):
            return f"it is {kind}"
    # The end may be in the middle of a character.
    text = head.decode("utf-8", "ignore")
    readable = len(text.encode()) > len(head) - 4 and all(
        c.isprintable() or c.isspace() for c in text
    )
    return "it is text" if readable else "it begins with the header of no format that is known"


def begins_recording(head: bytes) -> bool:
    """Whether a part that follows others begins a recording of its own."""
    if head[4:8] == b"ftyp":
        return True
    return any(one.demuxer and one.demuxer != "mov" and one.start.match(head) for one in CONTAINERS)


def mp4_index_is_last(head: bytes) -> bool | None:
    """Whether an MP4's sound comes before its index; None while ``head`` is too short for that."""
    at = 0
    while len(head) >= at + 8:
        size, box = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if box in (b"mdat", b"moov", b"moof"):
            return box == b"mdat"
        at += max(size, 8)
    return None
