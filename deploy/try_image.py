"""Runs the steps of the Dockerfile in a minimal Debian root, and looks at what came out.

For machines without a container runtime: each stage is a folder, each RUN line runs in it by
chroot. The result then serves as the user that the Dockerfile names, on a root that is read-only
but for the volumes and /tmp, until its health check says that it is well and it has transcribed a
file. As root on Linux, with debootstrap:

    python3 deploy/try_image.py /var/tmp/image --target cpu

What is needed to reach the package index from here and is no part of the image is given by
``--env NAME=VALUE`` (for RUN lines and the server) and ``--file PATH`` (copied into the root).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_START_S = 600.0
_ROOTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_WRITABLE = ["/models", "/data", "/tmp"]
_SETTINGS = frozenset(["USER", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"])
_KNOWN = _SETTINGS | {"RUN", "COPY", "ENV", "WORKDIR"}


@dataclass
class Stage:
    """One stage of a Dockerfile: what it is made from, its steps, and how it is run.

    ``steps`` are instructions with what they say, as ("RUN", "apt-get update"); JSON is a list.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def value(self, instruction: str) -> str | None:
        """What it says last of this."""
        return next((text for kind, text in reversed(self.steps) if kind == instruction), None)


def read_dockerfile(text: str) -> dict[str, Stage]:
    """The stages by name, in order. Knows what the Dockerfile here uses; else ValueError."""
    stages: dict[str, Stage] = {}
    kept = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        rest = " ".join(rest.split()) if instruction == "RUN" else rest.strip()
        if instruction == "FROM":
            found = re.fullmatch(r"(\S+) AS (\S+)", rest)
            if not found:
                raise ValueError(f"a stage without a name: {line}")
            stages[found[2]] = Stage(found[2], found[1])
        elif instruction in _KNOWN:
            list(stages.values())[-1].steps.append((instruction, rest))
        else:
            raise ValueError(f"an instruction that is not known here: {line}")
    return stages


@dataclass
class Image:
    """A stage that has been made: a root, and what its instructions set."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    settings: dict[str, str] = field(default_factory=dict)


class Builder:
    """Makes stages below a folder, each in a copy of the one that it is made from."""

    def __init__(self, work: Path, env: Mapping[str, str], files: Sequence[Path]) -> None:
        self.stages = read_dockerfile((ROOT / "Dockerfile").read_text())
        self._work = work
        self._env = env
        self._files = files
        self._made: dict[str, Image] = {}

    def make(self, name: str) -> Image:
        """A stage, and before it those that it needs."""
        if name in self._made:
            return self._made[name]
        stage = self.stages.get(name)
        if stage is None:
            return self._debian(name)
        before = self.make(stage.base)
        root = self._work / name
        if root.exists():
            shutil.rmtree(root)
        run(["cp", "-a", "--reflink=auto", str(before.root), str(root)])
        image = Image(root, dict(before.env), before.folder, dict(before.settings))
        for instruction, text in stage.steps:
            self._perform(image, instruction, text)
        self._made[name] = image
        return image

    def _debian(self, name: str) -> Image:
        """``debian:RELEASE-slim``, by debootstrap; kept from one try to the next."""
        release = name.removeprefix("debian:").removesuffix("-slim")
        root = self._work / release
        if not root.exists():
            run(["debootstrap", "--variant=minbase", release, str(root)], quiet=True)
            # As in that image: no documentation, no lists of packages.
            for path in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(root / path, ignore_errors=True)
            for path in ("var/lib/apt/lists", "var/cache/apt"):
                shutil.rmtree(root / path)
                (root / path / "partial").mkdir(parents=True)
            rules = "path-exclude /usr/share/{}/*\n"
            (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(
                "".join(rules.format(path) for path in ("doc", "man", "locale"))
            )
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        for path in self._files:
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        self._made[name] = Image(root)
        return self._made[name]

    def _perform(self, image: Image, instruction: str, text: str) -> None:
        match instruction:
            case "RUN":
                start = time.monotonic()
                inside(image, ["/bin/sh", "-c", text], self._env)
                say(image.root.name, f"{time.monotonic() - start:6.1f} s  RUN {text[:90]}")
            case "COPY":
                self._copy(image, shlex.split(text))
            case "ENV":
                image.env |= dict(one.split("=", 1) for one in shlex.split(text))
            case "WORKDIR":
                image.folder = text
                (image.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case _:
                image.settings[instruction] = text

    def _copy(self, image: Image, words: list[str]) -> None:
        source = ROOT
        if words[0].startswith("--from="):
            source = self.make(words.pop(0).removeprefix("--from=")).root
        *paths, target = words
        goal = image.root / str(Path(image.folder) / target).lstrip("/")
        for path in paths:
            found = source / path.lstrip("/")
            if found.is_dir():
                ignored = shutil.ignore_patterns("__pycache__") if source == ROOT else None
                shutil.copytree(found, goal, symlinks=True, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copy2(found, goal)


def say(where: str, text: str) -> None:
    sys.stdout.write(f"{where:>12}  {text}\n")
    sys.stdout.flush()


def run(command: Sequence[str], *, quiet: bool = False) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)


def as_command(folder: str, env: Mapping[str, str], command: Sequence[str]) -> str:
    """A shell's words for a command in a folder, with these variables and no others."""
    variables = [f"{name}={value}" for name, value in env.items()]
    script = f"cd {shlex.quote(folder)} && exec {shlex.join(command)}"
    return shlex.join(["/usr/bin/env", "-i", *variables, "/bin/sh", "-c", script])


def inside(image: Image, command: Sequence[str], more: Mapping[str, str]) -> None:
    """Run a command in a root as a RUN line is: as root, with the stage's variables alone."""
    env = {"PATH": _ROOTS_PATH, "HOME": "/root", **image.env, **more}
    mounts = "mount -t proc proc proc && mount --rbind /dev dev"
    script = f"cd {shlex.quote(str(image.root))} && {mounts} && exec chroot . " + as_command(
        image.folder, env, command
    )
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stdout}")


class Container:
    """An image that runs: its user, a root that is read-only, its volumes and /tmp.

    The network is this machine's. ``volumes`` is a folder with one for each of them.
    """

    def __init__(self, image: Image, volumes: Path, env: Mapping[str, str]) -> None:
        self._image = image
        self.env = {"PATH": _ROOTS_PATH, **image.env, **env}
        user, _, group = image.settings["USER"].partition(":")
        binds = []
        for path in json.loads(image.settings["VOLUME"]):
            own = volumes / path.lstrip("/")
            own.mkdir(parents=True, exist_ok=True)
            os.chown(own, int(user), int(group))
            binds.append(f"mount --bind {shlex.quote(str(own))} .{path}")
        root = shlex.quote(str(image.root))
        self._mounts = " && ".join(
            [
                f"mount --bind {root} {root}",
                f"cd {root}",
                *binds,
                "mount -t tmpfs tmpfs tmp",
                "mount -t proc proc proc",
                "mount --rbind /dev dev",
                f"mount -o remount,bind,ro {root} {root}",
            ]
        )
        self._user = f"--userspec={user}:{group}"

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command in it. Its PID is that of the process here."""
        program = as_command(self._image.folder, self.env, command)
        script = f"{self._mounts} && exec chroot {self._user} . {program}"
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        """The exit status and output of a command in it."""
        process = self.start(command)
        text, _ = process.communicate()
        return process.returncode, text


def serve(container: Container, image: Image, checks: dict[str, object]) -> None:
    """Start the server, wait for its health check, use it, and end it."""
    health = json.loads(image.settings["HEALTHCHECK"].partition("CMD ")[2])
    command = json.loads(image.settings["ENTRYPOINT"]) + json.loads(image.settings["CMD"])
    start = time.monotonic()
    server = container.start(command)
    try:
        while container.run(*health)[0]:
            if server.poll() is not None or time.monotonic() - start > _START_S:
                server.kill()
                raise SystemExit(f"it does not become healthy:\n{server.communicate()[0]}")
        checks["healthy_after_s"] = round(time.monotonic() - start, 1)
        status = Path(f"/proc/{server.pid}/status").read_text()
        checks["uid"] = int(re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.M)[1])
        checks["memory_mb"] = int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1]) // 1024
        checks["words"] = transcribe(container)
    finally:
        asked = time.monotonic()
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    checks["ended_with"] = server.returncode
    checks["ended_after_s"] = round(time.monotonic() - asked, 1)


def transcribe(container: Container) -> str:
    """What the server makes of a recording of this repository."""
    import urllib.request

    boundary = "a-part-of-a-form"
    name = "tests/audio/yes.flac"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    body = head.encode() + (ROOT / name).read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{container.env['VOXLIVE_PORT']}/v1/audio/transcriptions",
        body,
        {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Authorization": f"Bearer {container.env['VOXLIVE_API_KEY']}",
        },
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return str(json.load(answer)["text"]).strip()


def size_mb(root: Path) -> int:
    """What a root's files occupy, in MB of 10^6 bytes."""
    done = subprocess.run(
        ["du", "-sx", "--block-size=1000000", str(root)],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[0])


def pairs(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for one in given:
        name, _, value = one.partition("=")
        yield name, value


def main() -> None:
    """Build, look, serve; one JSON object at the end. Exits with 1 where something is not so."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path, help="a folder for the roots, which is kept")
    parser.add_argument("--target", default="cpu", help="a stage of the Dockerfile")
    parser.add_argument("--port", default="18000", help="of the server that is tried")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--file", action="append", default=[], type=Path, metavar="PATH")
    parser.add_argument("--build-only", action="store_true", help="do not serve")
    args = parser.parse_args()
    env = dict(pairs(args.env))
    image = Builder(args.work, env, args.file).make(args.target)
    checks: dict[str, object] = {"target": args.target, "size_mb": size_mb(image.root)}
    if not args.build_only:
        own = {"VOXLIVE_PORT": args.port, "VOXLIVE_API_KEY": "of-this-try-alone", **env}
        volumes = args.work / f"volumes-{args.target}"
        shutil.rmtree(volumes, ignore_errors=True)
        container = Container(image, volumes, own)
        checks["writes_into"] = [
            path
            for path in ("/", "/etc", "/opt/voxlive", "/usr/bin", *_WRITABLE)
            if container.run("touch", f"{path.rstrip('/')}/written")[0] == 0
        ]
        serve(container, image, checks)
        again: dict[str, object] = {}
        serve(container, image, again)
        checks["healthy_again_after_s"] = again["healthy_after_s"]
    sys.stdout.write(json.dumps(checks) + "\n")
    wrong = not args.build_only and (
        checks["uid"] == 0
        or checks["writes_into"] != _WRITABLE
        or checks["ended_with"] != 0
        or not checks["words"]
    )
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
