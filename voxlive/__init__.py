"""voxlive: a real-time transcription server.

Python runs this before any other module of the package, in a command, in every child process and in
a program that embeds a part: what has to be decided before a dependency is imported stands here.
"""

import os

_TELEMETRY_OFF = {
    # onnxruntime reads it once, as it is imported: its own function comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub's, and with it that of transformers and mlx-audio.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
# Whatever the environment says: child processes inherit it.
os.environ.update(_TELEMETRY_OFF)

__version__ = "0.1.0"
