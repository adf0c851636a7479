"""Make the sentence that the page plays to those without a microphone: needs flite.

Run by hand (``python tests/audio/make_demo.py``) when it is to change; then the text in
``tests/web/page/test_first_contact.py`` does too. MP3 is what every browser decodes.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from make_clips import noise, synthesise

TARGET = Path(__file__).parents[2] / "voxlive" / "web" / "static" / "demo.mp3"
TEXT = "Welcome. You hear a short sentence, and you can read every word of it on this page."


def main() -> None:
    said = synthesise("slt", TEXT)
    quiet = np.zeros(round(0.3 * said.rate), np.int16)
    audio = np.concatenate([quiet, said.audio, quiet])
    # Noise that nobody hears: silence that is exact is no recording's.
    audio = np.clip(audio + noise(len(audio), -66, 1), -32768, 32767).astype(np.int16)
    with av.open(str(TARGET), "w", format="mp3") as file:
        stream = file.add_stream("libmp3lame", rate=said.rate, layout="mono", bit_rate=32_000)
        frame = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
        frame.sample_rate = said.rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)


if __name__ == "__main__":
    main()
