"""A user's program, whose types `make check` sees: it is never run."""

from typing import assert_type

import numpy as np

import voxlive
from voxlive.streaming.processor import Token
from voxlive.values import Segment, Word

engine = voxlive.load_engine("whisper-tiny.en", voxlive.EngineOptions(max_sessions=1))
processor = voxlive.OnlineProcessor(engine)
assert_type(voxlive.transcribe("speech.wav", model=engine).text, str)
silence = np.zeros(16_000, np.float32)
assert_type(voxlive.transcribe(silence, language="en").segments, tuple[Segment, ...])
assert_type(processor.process_iter()[0], list[Token])
assert_type(voxlive.Words(0, ()).words, tuple[Word, ...])
assert_type(voxlive.__version__, str)
voxlive.nothing  # type: ignore[attr-defined]  # noqa: B018 - a name that there is not
