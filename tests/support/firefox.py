"""The system's Firefox, driven over WebDriver BiDi, with a PulseAudio sink as its microphone."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

_NAMES = ("firefox-esr", "firefox")
_LISTENING = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
_PREFERENCES = {
    "app.update.enabled": False,
    "browser.download.alwaysOpenPanel": False,
    "browser.download.folderList": 2,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "media.navigator.permission.disabled": True,  # no question about the microphone
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}
_LONG_S = 60


def firefox() -> str:
    """Its path; where it or PulseAudio is missing the test is skipped."""
    path = next(filter(None, map(shutil.which, _NAMES)), "")
    missing = [] if path else ["firefox-esr"]
    missing += [] if all(map(shutil.which, ("pulseaudio", "pactl"))) else ["pulseaudio"]
    missing += [] if shutil.which("paplay") else ["pulseaudio-utils"]
    if missing:
        pytest.skip(f"not on this machine: install {', '.join(missing)}")
    return path


class SoundCard:
    """A PulseAudio of its own: what is played to it is what its microphone hears."""

    def __init__(self, folder: Path) -> None:
        self._socket = f"unix:{folder}/native"
        runtime = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        self.env = {**os.environ, **runtime, "PULSE_SERVER": self._socket}

    async def play(self, wav: Path) -> None:
        """Until all of it has been heard."""
        await self._run("paplay", "--device=mouth", str(wav))

    async def settle(self) -> None:
        """Wait until it is there, then choose what programs get without a choice."""
        async with asyncio.timeout(_LONG_S):
            # The other side is another process: there is nothing to wait on but its answers.
            while True:
                if await self._works("pactl", "info"):
                    break
                await asyncio.sleep(0.05)
        await self._run("pactl", "set-default-sink", "ears")
        await self._run("pactl", "set-default-source", "microphone")

    async def _works(self, *command: str) -> bool:
        nothing = asyncio.subprocess.DEVNULL
        running = await asyncio.create_subprocess_exec(
            *command, env=self.env, stdout=nothing, stderr=nothing
        )
        return await running.wait() == 0

    async def _run(self, *command: str) -> None:
        assert await self._works(*command), command


@asynccontextmanager
async def sound_card() -> AsyncIterator[SoundCard]:
    """A sound card without hardware, until the end."""
    # A socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="pulse") as name:
        card = SoundCard(Path(name))
        modules = (
            "module-null-sink sink_name=ears",
            "module-null-sink sink_name=mouth rate=48000 channels=1",
            # A source that is the monitor of a sink is no microphone to a browser.
            "module-remap-source source_name=microphone master=mouth.monitor",
            f"module-native-protocol-unix auth-anonymous=1 socket={name}/native",
        )
        options = ("-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1")
        loaded = (part for module in modules for part in ("-L", module))
        running = await asyncio.create_subprocess_exec(
            "pulseaudio",
            *options,
            "--disable-shm=yes",
            *loaded,
            env={**card.env, "PULSE_SERVER": ""},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await card.settle()
            yield card
        finally:
            running.terminate()
            await running.wait()


class Firefox:
    """One window. Questions before a page is left are answered with yes."""

    def __init__(self, socket: ClientConnection, downloads: Path) -> None:
        self._socket = socket
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict]] = {}
        self._reading = asyncio.create_task(self._read())
        self._context = ""
        self._downloads = downloads

    async def begin(self) -> str:
        """A session of WebDriver; the browser's version."""
        prompts = {"unhandledPromptBehavior": {"default": "accept"}}
        found = await self.command("session.new", capabilities={"alwaysMatch": prompts})
        tree = await self.command("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]
        return found["capabilities"]["browserVersion"]

    async def end(self) -> None:
        await self.command("browser.close")
        await self._reading

    async def open(self, url: str) -> None:
        await self.command(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    async def reload(self) -> None:
        await self.command("browsingContext.reload", context=self._context, wait="complete")

    async def evaluate(self, expression: str) -> object:
        """The value of an expression, or what its promise brings."""
        found = await self.command(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self._context},
            awaitPromise=True,
        )
        assert found["type"] == "success", found
        return json.loads(found["result"].get("value", "null"))

    async def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        look = "setInterval(() => { if (EXPRESSION) { clearInterval(looking); done(true); } }, 30)"
        waiting = f"new Promise((done) => {{ const looking = {look}; }})"
        async with asyncio.timeout(_LONG_S):
            await self.evaluate(waiting.replace("EXPRESSION", expression))

    async def beside(self) -> Firefox:
        """A window of another user, who has nothing of what this one's keeps."""
        user = (await self.command("browser.createUserContext"))["userContext"]
        made = await self.command("browsingContext.create", type="window", userContext=user)
        other = copy.copy(self)
        other._context = made["context"]
        return other

    async def click(self, selector: str) -> None:
        """In the middle of an element, as a person does."""
        found = f"document.querySelector({json.dumps(selector)})"
        await self.click_in(f"{found}.getBoundingClientRect()")

    async def click_in(self, box: str, times: int = 1) -> None:
        """In the middle of a rectangle of the page, which an expression has."""
        at = await self.evaluate(f"{box}.toJSON()")
        place = {axis: round(at[axis] + at[size] / 2) for axis, size in _AXES}
        click = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        actions = [{"type": "pointerMove", **place}, *click * times]
        await self._act({"type": "pointer", "id": "mouse", "actions": actions})

    async def press(self, *keys: str) -> None:
        """One after the other."""
        kinds = ("keyDown", "keyUp")
        actions = [{"type": kind, "value": key} for key in keys for kind in kinds]
        await self._act({"type": "key", "id": "keyboard", "actions": actions})

    async def downloaded(self, ending: str) -> str:
        """The text of the one file with this ending, once it is there."""
        async with asyncio.timeout(_LONG_S):
            while True:
                if path := _only(self._downloads, ending):
                    return await asyncio.to_thread(path.read_text)
                await asyncio.sleep(0.05)

    async def command(self, method: str, **params: object) -> dict:
        """The result of one command of WebDriver BiDi."""
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        return await self._waiting[number]

    async def _act(self, source: dict) -> None:
        await self.command("input.performActions", context=self._context, actions=[source])

    async def _read(self) -> None:
        async for data in self._socket:
            message = json.loads(data)
            answered = self._waiting.pop(message.get("id"), None)
            if answered is None:
                continue
            if message["type"] == "error":
                answered.set_exception(RuntimeError(f"{message['error']}: {message['message']}"))
            else:
                answered.set_result(message["result"])


def _only(folder: Path, ending: str) -> Path | None:
    """A folder's one file; None while more is there, such as a part of it, or nothing."""
    paths = list(folder.iterdir())
    return paths[0] if len(paths) == 1 and paths[0].name.endswith(ending) else None


_AXES = (("x", "width"), ("y", "height"))


@asynccontextmanager
async def firefox_with(card: SoundCard, folder: Path) -> AsyncIterator[Firefox]:
    """A Firefox with a new profile in a folder, without a window on a screen."""
    path = firefox()
    profile, downloads = folder / "profile", folder / "downloads"
    profile.mkdir()
    downloads.mkdir()
    preferences = {**_PREFERENCES, "browser.download.dir": str(downloads)}
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in preferences.items()]
    (profile / "user.js").write_text("".join(lines))
    running = await asyncio.create_subprocess_exec(
        path,
        *("--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", str(profile)),
        env={**card.env, "HOME": str(folder), "MOZ_DISABLE_AUTO_SAFE_MODE": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    reading: asyncio.Task[None] | None = None
    try:
        url = ""
        async with asyncio.timeout(_LONG_S):
            while not url:
                line = (await running.stderr.readline()).decode()
                assert line, "Firefox ended"
                url = found[1] if (found := _LISTENING.search(line)) else ""
        reading = asyncio.create_task(_drain(running.stderr))
        async with connect(f"{url}/session", max_size=None) as socket:
            browser = Firefox(socket, downloads)
            await browser.begin()
            yield browser
            await browser.end()
        await asyncio.wait_for(running.wait(), _LONG_S)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
        if reading:
            await reading


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass
