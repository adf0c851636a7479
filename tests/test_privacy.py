"""The product contacts nobody, and leaves nothing outside its own folders."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest
from support.clips import clip
from support.server import Server, serving
from support.weights import link
from support.wire import START, dial, listen, s16le, send

SWITCHES = (
    "ORT_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
    "DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
)
COLLECTED_AFTER_S = 11
"""onnxruntime asks for its collector's name 10 s after it is imported."""
TELEMETRY_ON = dict.fromkeys(SWITCHES, "0")

# Says the switches at the moment in which a dependency that reads them is imported.
WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "huggingface_hub"):
            print(name, *(os.environ[switch] for switch in sys.argv[2:]))

sys.meta_path.insert(0, Watch())
exec(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("embedding", "dependency"),
    [
        ("import voxlive.vad.detector", "onnxruntime"),
        ("from voxlive.checkpoints.resolve import cache_folder; cache_folder()", "huggingface_hub"),
    ],
)
def test_telemetry_is_off_before_the_import_whatever_the_environment_says(embedding, dependency):
    command = [sys.executable, "-c", WATCH, embedding, *SWITCHES]
    env = os.environ | TELEMETRY_ON
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [dependency, "1", "1", "1", "1"]


async def use(server: Server) -> None:
    """A live session and a file, each with its words."""
    samples = clip("yes").samples
    async with dial(f"{server.ws}/v1/live") as socket:
        await send(socket, START, s16le(samples), {"type": "stop"})
        assert "Yes" in (await listen(socket)).of("done")[0]["text"]
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        file = {"file": ("yes.wav", clip("yes").path.read_bytes())}
        answer = await http.post("/v1/audio/transcriptions", files=file, data={"model": ""})
        assert "Yes" in answer.json()["text"]


def _why_untraced() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(["strace", "-f", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace: {tried.stderr.strip()[-200:]}"


@pytest.mark.long
async def test_a_server_contacts_nobody_and_leaves_no_file_and_no_telemetry(tmp_path):
    """Whom it contacts is seen where there is strace."""
    folders = {
        "HOME": tmp_path / "home",
        "XDG_CACHE_HOME": tmp_path / "home" / "cache",
        "TMPDIR": tmp_path / "tmp",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    link(folders["XDG_CACHE_HOME"])
    before = set(tmp_path.rglob("*"))
    env = {name: str(folder) for name, folder in folders.items()} | TELEMETRY_ON
    untraced = _why_untraced()
    with TemporaryDirectory() as beside:
        trace = Path(beside) / "trace"
        # With -D the server is the process that was started; the tracer is beside it.
        under = ["strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=%network", "-o", str(trace)]
        options = {} if untraced else {"under": under}
        with serving("--max-sessions", "1", env=env, **options) as server:
            await use(server)
            children = psutil.Process(server.process.pid).children(recursive=True)
            processes = [one for one in children if one.name() != "strace"]
            assert len(processes) >= 2  # the engine's and the file's
            for process in processes:
                environ = process.environ()
                assert [environ.get(switch) for switch in SWITCHES] == ["1"] * len(SWITCHES)
            if not untraced:
                await asyncio.sleep(COLLECTED_AFTER_S)
        assert set(tmp_path.rglob("*")) == before
        if untraced:
            pytest.skip(f"whom it contacts is not seen: {untraced}")
        calls = _whole(trace, server.process.pid)
    assert [call for call in calls if "listen(" in call]
    assert {call for call in calls if _goes_out(call)} == set()


def _whole(trace: Path, pid: int) -> list[str]:
    """Every call, once the tracer has seen the server's end."""
    while not re.search(rf"^{pid} +\+\+\+ exited", text := trace.read_text(), re.MULTILINE):
        os.sched_yield()
    return text.splitlines()


_LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')
_RESOLVERS = re.compile(r"sin6?_port=htons\((53|5353|5355|853)\)|resolve|avahi")


def _goes_out(call: str) -> bool:
    """Whether a call names a peer that is not on this machine, or one that answers for names."""
    if not re.search(r"\b(connect|sendto|sendmsg|sendmmsg)\(", call):
        return False
    if re.search(r"sa_family=AF_INET6?\b", call) and not _LOOPBACK.search(call):
        return True
    return bool(re.search(r"sa_family=", call) and _RESOLVERS.search(call))
