"""Programs for Node with the packages of tests/web/clients/js, installed once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "web" / "clients" / "js"
_PACKAGES = FOLDER / "node_modules"


def ready() -> None:
    """Install what package.json names, if it is not there; without Node the test is skipped.

    With VOXLIVE_REQUIRE_NODE=1 it fails instead.
    """
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        without(f"no {' and no '.join(missing)} on this machine: install nodejs and npm")
    wanted = (FOLDER / "package.json").read_text()
    stamp = _PACKAGES / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    done = subprocess.run(
        ["npm", "install", *quiet], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    if done.returncode:
        without(f"npm cannot install the clients: {done.stderr.strip()}")
    stamp.write_text(wanted)


def without(reason: str) -> None:
    """Skip the test, or fail where Node is required."""
    if os.environ.get("VOXLIVE_REQUIRE_NODE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


async def node(program: str, *args: object, trusts: Path) -> dict:
    """What a program prints, which is one JSON value; ``trusts``: a server's certificate."""
    process = await asyncio.create_subprocess_exec(
        "node",
        program,
        *map(str, args),
        cwd=FOLDER,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(trusts)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    return json.loads(out)
