"""The same speech has the same text through every protocol, and deltas join to that text."""

import asyncio
from collections.abc import Iterator

import pytest
from support.scoring import spelt
from support.server import AT_PAUSES, Server, serving
from support.talk import PORTS, WHISPER, WYOMING
from support.ways import CAPTIONS, FILES, WAYS, native

from voxlive.web.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*PORTS, *AT_PAUSES) as running:
        yield running


@pytest.fixture(scope="module")
def expected(server) -> str:
    said = asyncio.run(native(server)).text
    assert {"train", "airport", "ticket", "bags"} <= set(spelt(said))
    return said


@pytest.fixture(scope="module")
def expected_of_file(server, expected) -> str:
    """A file's: its window has other silence behind it, which some processors write otherwise."""
    said = asyncio.run(WAYS[f"{FILES} json"](server)).text
    assert spelt(said) == spelt(expected)
    return said


def test_every_protocol_is_covered():
    assert {name.split(" ")[0] for name in WAYS} == {
        *(*PROTOCOLS, WHISPER, WYOMING),
        *(FILES, CAPTIONS),
    }


@pytest.mark.parametrize("name", WAYS)
async def test_every_protocol_has_the_same_text(server, expected, expected_of_file, name):
    said = await WAYS[name](server)
    of_file = name.startswith(f"{FILES} ") or name.endswith("with a file")
    assert said.text.split() == (expected_of_file if of_file else expected).split()
    if said.deltas is not None:
        assert said.deltas.split() == said.text.split()
        assert said.deltas.strip() == said.text.strip()
