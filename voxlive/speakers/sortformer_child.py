"""The process in which streaming Sortformer hears who speaks, for ``sortformer.py``."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxlive.processes.process import read_messages, run_child
from voxlive.speakers.sortformer import ChunkHeard, ForgetStream, HearChunk, LoadSortformer

if TYPE_CHECKING:
    from voxlive.processes.process import BatchedSender


def _serve(end: socket.socket, sender: BatchedSender[Any]) -> None:
    model: Any = None
    streams: dict[int, Any] = {}
    for batch in read_messages(end):
        for message in batch:
            match message:
                case LoadSortformer(folder):
                    from mlx_audio.vad import load

                    model = load(Path(folder))
                case HearChunk(number, stream, audio):
                    state = streams.get(stream) or model.init_streaming_state()
                    samples = np.frombuffer(audio, np.float32)
                    heard, streams[stream] = model.feed(samples, state)
                    sender.put(ChunkHeard(number, np.array(heard.speaker_probs, np.float32)))
                case ForgetStream(stream):
                    streams.pop(stream, None)


if __name__ == "__main__":
    run_child(_serve)
