"""The corpus of odd media: what is decoded, what is reported, and that cuts change neither."""

import asyncio
import io
import random
from itertools import pairwise

import numpy as np
import pytest
from support.odd_media import CORPUS, RATE, SEED, SPEECH

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import AudioFormat, Report
from voxlive.streaming.ingest.live import open_ingest
from voxlive.streaming.ingest.media import decode_file, measure
from voxlive.streaming.ingest.sniff import CONTAINERS

_SAMPLE = random.Random(SEED).sample(sorted(CORPUS), 12)
# Whatever the draw, the faults that users met are tried every time.
_ALWAYS = [
    *("mp3-twice", "mp3-zeros-behind", "wav-without-10-bytes", "mp3-100-bytes-cut-out"),
    *("m4a-30-bytes-changed", "flac-damaged", "ogg-lost-page", "mkv-late", "webm-gap"),
    *("aac-after-id3", "mp3-mid-stream", "wav-opposite", "wav-says-40-mb"),
]
_EVERY = [
    pytest.param(name, marks=[] if name in (*_SAMPLE, *_ALWAYS) else pytest.mark.endurance)
    for name in CORPUS
]


def from_file(data):
    """Samples, codes of the warnings, and whether the file is refused."""
    report, pieces = Report(), [np.empty(0, np.float32)]
    try:
        pieces.extend(decode_file(io.BytesIO(data), report))
    except BadAudio:
        return np.concatenate(pieces), set(), True
    return np.concatenate(pieces), {warning.code for warning in report.warnings}, False


async def arriving(data, cuts):
    """The same of bytes that arrive in pieces."""
    ingest = open_ingest(AudioFormat("container"))
    pieces, refused = [np.empty(0, np.float32)], False
    try:
        for a, b in pairwise([0, *cuts, len(data)]):
            pieces += [samples async for samples in ingest.push(data[a:b])]
        pieces += [samples async for samples in ingest.finish()]
    except BadAudio:
        refused = True
    codes = set() if refused else {warning.code for warning in ingest.warnings}
    ingest.close()
    return np.concatenate(pieces), codes, refused


def likeness(samples, expected):
    """The correlation with a part of the clip about where it must be, and how far it is off."""
    part, at = (
        SPEECH[int(expected.start * RATE) : int(expected.end * RATE)],
        int(expected.at * RATE),
    )
    first = max(at - 1_600, 0)
    around = samples[first : at + len(part) + 1_600]
    size = 1 << (len(around) + len(part)).bit_length()
    cross = np.fft.irfft(np.fft.rfft(around, size) * np.fft.rfft(part, size).conj(), size)
    best = int(np.abs(cross).argmax())
    off = (best if best < size // 2 else best - size) + first - at
    found = samples[max(at + off, 0) : at + off + len(part)]
    power = float((found**2).sum() * (part**2).sum())
    return abs(float(cross[best])) / max(power, 1e-12) ** 0.5, off / RATE


@pytest.mark.parametrize("name", _EVERY)
def test_odd_media_decode_or_are_reported(name, tmp_path):
    odd = CORPUS[name]
    samples, codes, refused = from_file(odd.data)
    assert refused == odd.refused
    assert codes == odd.warnings
    if odd.refused:
        assert len(samples) == 0
        return
    assert abs(len(samples) / RATE - odd.duration) <= odd.slack
    for expected in odd.expected:
        like, off_s = likeness(samples, expected)
        assert like >= odd.like
        assert abs(off_s) < 0.1
    path = tmp_path / name
    path.write_bytes(odd.data)
    measured = measure(path)
    assert measured.seconds == len(samples) / RATE
    assert {warning.code for warning in measured.warnings} == odd.warnings


@pytest.mark.parametrize("name", [name for name in _EVERY if CORPUS[name.values[0]].live])
def test_cuts_of_the_bytes_change_nothing(name):
    data = CORPUS[name].data
    samples, codes, refused = from_file(data)
    draw = random.Random(f"{SEED} {name}")
    for most in (3, 40, 400):
        cuts = sorted(draw.randint(0, len(data)) for _ in range(draw.randint(1, most)))
        came, reported, bad = asyncio.run(arriving(data, cuts))
        assert (reported, bad) == (codes, refused)
        assert np.array_equal(came, samples)


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "webm", "wav", "aac", "m4a"])
@pytest.mark.parametrize(
    "number", [0, *(pytest.param(n, marks=pytest.mark.endurance) for n in range(1, 40))]
)
def test_damage_anywhere_is_the_same_for_every_cut(name, number):
    """Bytes changed, cut out and put in at places that are drawn."""
    from support import odd_media

    draw = random.Random(f"{SEED} {name} {number}")
    data = bytearray(getattr(odd_media, name)())
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randint(200, len(data)), draw.randint(1, 2_000)
        match draw.randint(0, 2):
            case 0:
                data[at : at + size] = draw.randbytes(len(data[at : at + size]))
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = draw.randbytes(size)
    results = []
    for most in (1, 50, 1_000):
        cuts = sorted(draw.randint(0, len(data)) for _ in range(most))
        results.append(asyncio.run(arriving(bytes(data), cuts)))
    samples, codes, refused = results[0]
    assert np.isfinite(samples).all()
    for came, reported, bad in results[1:]:
        assert (reported, bad) == (codes, refused)
        assert np.array_equal(came, samples)


def test_the_corpus_has_every_container():
    made = {name for name, odd in CORPUS.items() if not odd.refused}
    assert len(CORPUS) >= 60
    covered = {
        container.name
        for container in CONTAINERS
        if any(container.start.match(CORPUS[name].data[:200]) for name in made)
    }
    assert covered == {container.name for container in CONTAINERS}
