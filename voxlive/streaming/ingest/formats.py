"""The formats of audio, and PCM to float32 mono at 16 kHz.

The registry of PCM encodings, a client's declared format, and warnings. PCM is decoded, mixed down
and resampled with the same result for every chunking.
Rates are in Hz; samples are float32 with full scale 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr

from voxlive.errors import BadAudio
from voxlive.values import SAMPLE_RATE, CodedWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

    from voxlive.values import Samples

CONTAINER = "container"
MIN_RATE, MAX_RATE = 8_000, 96_000
MAX_CHANNELS = 8
_PIECE = 1 << 16
_WINDOWS_A_SECOND = 50
_MEMORY_S = 0.5
# Parts of the power that uncorrelated channels leave in their mean: below the first the loudest
# channel replaces the mean, above the second the mean is used again.
_CANCELLED, _RESTORED = 0.1, 0.3
_LOUDER_BY = 2.0
_SILENCE_POWER = 1e-10  # power at -100 dB of full scale


class Report:
    """Collects the warnings about one stream while it is decoded; of each code the first.

    ``cut_off``: the end of the audio is missing. ``damaged``: parts were left out.
    ``trailing_data``: what follows it is no audio. ``timeline_jump``: its time stamps leap too far
    for silence.
    """

    def __init__(self) -> None:
        self._found: dict[str, CodedWarning] = {}

    def add(self, code: str, message: str) -> None:
        """Add a warning."""
        self._found.setdefault(code, CodedWarning(code, message))

    @property
    def warnings(self) -> tuple[CodedWarning, ...]:
        """All so far."""
        return tuple(self._found.values())


class PacketLosses:
    """Counts packets that do not decode; ``last``: those after the last one that does."""

    def __init__(self) -> None:
        self._count = 0
        self._first_s = 0.0
        self.last = 0

    def add(self, at_s: float) -> None:
        """One, at ``at_s`` seconds of the sound, does not."""
        self._first_s = self._first_s if self._count + self.last else at_s
        self.last += 1

    def good(self) -> None:
        """One decodes: those before it are lost in the middle."""
        self._count += self.last
        self.last = 0

    def report_to(self, name: str, report: Report) -> None:
        """Warn of the lost ones, but for the last, of a recording of this name."""
        if self._count:
            report.add(
                "damaged",
                f"the {name} is damaged: {self._count} of its packets were left out,"
                f" the first at {self._first_s:.1f} s",
            )


def to_unit(values: NDArray[Any]) -> Samples:
    """Samples of any width as float32 with full scale 1: integers are divided by 2^(bits-1).

    Floats outside [-1, 1] are clipped, as every integer format would; NaN and infinities become 0.
    """
    if values.dtype.kind == "f":
        finite: NDArray[Any] = np.where(np.isfinite(values), values, 0)
        return finite.clip(-1, 1).astype(np.float32, copy=False)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - np.float32(128)) / np.float32(128)
    scale = np.float32(2.0 ** (1 - 8 * values.dtype.itemsize))
    scaled: Samples = np.multiply(values, scale, dtype=np.float32)
    return scaled


def _mulaw_table() -> Samples:
    """The decoder of ITU-T G.711 mu-law for all 256 codes, at 16-bit scale."""
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 132 << ((code >> 4) & 7)) - 132
    return to_unit(np.where(code & 0x80, -magnitude, magnitude).astype(np.int16))


def _alaw_table() -> Samples:
    """The decoder of ITU-T G.711 A-law for all 256 codes, at 16-bit scale."""
    code = np.arange(256) ^ 0x55
    segment, step = (code >> 4) & 7, (code & 0x0F) << 4
    magnitude = np.where(segment, step + 0x108 << np.maximum(segment - 1, 0), step + 8)
    return to_unit(np.where(code & 0x80, magnitude, -magnitude).astype(np.int16))


@dataclass(frozen=True, slots=True)
class Encoding:
    """One PCM encoding: the type of a sample, and the decoding table of a companded one."""

    dtype: np.dtype[Any]
    table: Samples | None = None

    def decode(self, data: bytes | memoryview) -> Samples:
        """Whole samples as float32 [n] with full scale 1."""
        values = np.frombuffer(data, self.dtype)
        return to_unit(values) if self.table is None else self.table[values]


ENCODINGS = {
    "s16le": Encoding(np.dtype("<i2")),
    "s32le": Encoding(np.dtype("<i4")),
    "f16le": Encoding(np.dtype("<f2")),
    "f32le": Encoding(np.dtype("<f4")),
    "u8": Encoding(np.dtype("u1")),
    "mulaw": Encoding(np.dtype("u1"), _mulaw_table()),
    "alaw": Encoding(np.dtype("u1"), _alaw_table()),
}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a client's audio arrives; raises BadAudio when that is not supported.

    ``encoding`` is a key of ENCODINGS, or "container" for a stream in one of those of
    ``sniff.CONTAINERS``, which states its own rate and channels.
    """

    encoding: str
    rate: int = 16_000
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding == CONTAINER:
            if (self.rate, self.channels) != (16_000, 1):
                raise BadAudio("a container states its own rate and channels: leave them out")
            return
        if self.encoding not in ENCODINGS:
            known = ", ".join((*ENCODINGS, CONTAINER))
            raise BadAudio(f"encoding {self.encoding!r} is not supported: use one of {known}")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            raise BadAudio(
                f"a rate of {self.rate} Hz is not supported: use {MIN_RATE} to {MAX_RATE}"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise BadAudio(f"{self.channels} channels are not supported: use 1 to {MAX_CHANNELS}")

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample of all channels, of PCM."""
        return ENCODINGS[self.encoding].dtype.itemsize * self.channels


def mix_down(frames: Samples) -> Samples:
    """The mean over the channels of float32 [n, channels], as [n].

    Channels are added one by one, so that a frame's sum never depends on how many came with it.
    """
    mono = frames[:, 0]
    if frames.shape[1] == 1:
        return mono
    mono = mono.copy()
    for channel in range(1, frames.shape[1]):
        mono += frames[:, channel]
    mono /= frames.shape[1]
    return mono


class Mixer:
    """Channels to mono: their mean, or the loudest one while the mean cancels what they carry.

    They cancel where one microphone of two is wired the wrong way round. The audio before a window
    of 20 ms decides about the window, by running powers with half a second of memory and with
    hysteresis; a change is a ramp over a quarter of the window. Nothing is held back.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._channels = channels
        self._window = max(rate // _WINDOWS_A_SECOND, 4)
        self._ramp = np.minimum(
            (np.arange(self._window, dtype=np.float32) + 1) / np.float32(self._window // 4), 1
        )
        self._keep = math.exp(-1 / (_WINDOWS_A_SECOND * _MEMORY_S))
        self._pieces: list[Samples] = []
        self._held = 0
        self._power = np.zeros(channels)
        self._mean_power = 0.0
        self._previous: int | None = None  # a channel; None: the mean
        self._chosen: int | None = None

    def push(self, frames: Samples) -> Samples:
        """Float32 [n, channels] to [n]."""
        if self._channels == 1:
            return frames[:, 0]
        mono = np.empty(len(frames), np.float32)
        at = 0
        while at < len(frames):
            piece = frames[at : at + self._window - self._held]
            mono[at : at + len(piece)] = self._mix(piece)
            at += len(piece)
            self._pieces.append(piece)
            self._held += len(piece)
            if self._held == self._window:
                self._choose(np.concatenate(self._pieces))
                self._pieces, self._held = [], 0
        # A view would keep all the memory that it is a part of.
        self._pieces = [np.concatenate(self._pieces)] if self._pieces else []
        return mono

    def _mix(self, piece: Samples) -> Samples:
        mono = _channel(piece, self._chosen)
        if self._previous == self._chosen:
            return mono
        ramp = self._ramp[self._held : self._held + len(piece)]
        mixed: Samples = _channel(piece, self._previous) * (1 - ramp) + mono * ramp
        return mixed

    def _choose(self, window: Samples) -> None:
        """Choose what the next window is made of."""
        exact = window.astype(np.float64)
        self._power = self._keep * self._power + (exact**2).sum(axis=0)
        mean = exact.sum(axis=1) / self._channels
        self._mean_power = self._keep * self._mean_power + float((mean**2).sum())
        self._previous = self._chosen
        uncorrelated = float(self._power.sum()) / self._channels**2
        if uncorrelated < _SILENCE_POWER * self._window:
            return
        loudest = int(self._power.argmax())
        if self._chosen is None:
            if self._mean_power < _CANCELLED * uncorrelated:
                self._chosen = loudest
        elif self._mean_power > _RESTORED * uncorrelated:
            self._chosen = None
        elif self._power[loudest] > _LOUDER_BY * self._power[self._chosen]:
            self._chosen = loudest


def _channel(frames: Samples, channel: int | None) -> Samples:
    return mix_down(frames) if channel is None else frames[:, channel]


class Resampler:
    """Streams float32 from ``rate`` to 16 kHz through soxr (HQ); 16 kHz passes untouched.

    With several ``channels`` samples are [n, channels], else [n].

    soxr keeps its filter state between calls, so the output does not depend on the calls' sizes.
    It works in blocks and holds back at most about 0.12 s (8 kHz) or 0.04 s (44.1 and 48 kHz).
    """

    def __init__(self, rate: int, channels: int = 1) -> None:
        self.rate = rate
        self._nothing = np.empty(0 if channels == 1 else (0, channels), np.float32)
        self._stream = (
            None
            if rate == SAMPLE_RATE
            else soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32", quality="HQ")
        )

    def push(self, mono: Samples) -> Samples:
        """Take ``mono`` [n]; returns the samples [m] at 16 kHz that are complete."""
        return mono if self._stream is None else self._stream.resample_chunk(mono)

    def finish(self) -> Samples:
        """The tail. Nothing may be pushed after it."""
        rest = self._nothing
        return rest if self._stream is None else self._stream.resample_chunk(rest, last=True)


class ChannelDecoder:
    """Bytes of one PCM format, cut anywhere, to float32 [n, channels] at 16 kHz."""

    def __init__(self, audio: AudioFormat) -> None:
        self._encoding = ENCODINGS[audio.encoding]
        self._channels = audio.channels
        self._frame = audio.sample_bytes
        self._resampler = self._open_resampler(audio)
        self._rest = b""

    def _open_resampler(self, audio: AudioFormat) -> Resampler:
        return Resampler(audio.rate, audio.channels)

    @property
    def pending(self) -> int:
        """Bytes that do not make a whole frame yet."""
        return len(self._rest)

    @property
    def warnings(self) -> tuple[CodedWarning, ...]:
        """The warnings if the audio ends here."""
        if not self._rest:
            return ()
        message = f"{len(self._rest)} bytes at the end are no whole frame and were left out"
        return (CodedWarning("cut_off", message),)

    def push(self, data: bytes | memoryview) -> Samples:
        """Samples at 16 kHz; bytes short of a whole frame wait for the next push."""
        return self._resampler.push(self._decode(data))

    def _decode(self, data: bytes | memoryview) -> Samples:
        """The whole frames, [n, channels] at the format's own rate."""
        data = b"".join((self._rest, data)) if self._rest else data
        whole = len(data) - len(data) % self._frame
        self._rest = bytes(data[whole:]) if whole < len(data) else b""
        return self._encoding.decode(data[:whole]).reshape(-1, self._channels)

    def finish(self) -> Samples:
        """The resampler's tail."""
        return self._resampler.finish()


class PcmDecoder(ChannelDecoder):
    """Bytes of one PCM format, cut anywhere, to float32 mono [n] at 16 kHz."""

    def __init__(self, audio: AudioFormat) -> None:
        super().__init__(audio)
        self._mixer = Mixer(audio.rate, audio.channels)

    def _open_resampler(self, audio: AudioFormat) -> Resampler:
        return Resampler(audio.rate)

    def push(self, data: bytes | memoryview) -> Samples:
        """Samples [n] at 16 kHz; bytes short of a whole frame wait for the next push."""
        return self._resampler.push(self._mixer.push(self._decode(data)))


class PcmIngest:
    """Raw PCM, decoded on the event loop: a chunk costs microseconds.

    Bytes at the end that make no whole frame are left out, with a warning.
    """

    def __init__(self, audio: AudioFormat) -> None:
        self._decoder = PcmDecoder(audio)
        self.warnings: tuple[CodedWarning, ...] = ()

    async def push(self, data: bytes) -> AsyncIterator[Samples]:
        """Decode in pieces of at most 64 KiB."""
        view = memoryview(data)
        for at in range(0, len(view), _PIECE):
            samples = self._decoder.push(view[at : at + _PIECE])
            if len(samples):
                yield samples

    async def finish(self) -> AsyncIterator[Samples]:
        """The resampler's tail."""
        self.warnings = self._decoder.warnings
        samples = self._decoder.finish()
        if len(samples):
            yield samples

    def close(self) -> None:
        """Nothing is held."""
