"""The table of ``docs/protocols.md``, made from the tests that prove its rows.

    PYTHONPATH=tests python -m support.conformance docs/protocols.md      # writes it anew

A test names what it proves: ``@pytest.mark.conforms(protocol, feature, what happens here)``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1] / "web"
# By the names that tests use, in the document's order.
PROTOCOLS = {
    "OpenAI": "OpenAI realtime transcription, `WS /v1/realtime` (today's shape and the beta's flat "
    "one)",
    "OpenAI's keys": "`POST /v1/realtime/client_secrets`",
    "vLLM": "vLLM's dialect of `WS /v1/realtime`",
    "Mistral": "Mistral realtime, `WS /v1/audio/transcriptions/realtime?model=`",
    "Deepgram": "Deepgram live, `WS /v1/listen`",
    "Flux": "Deepgram's Flux, `WS /v2/listen`",
    "Deepgram's files": "Deepgram with a file, `POST /v1/listen`",
    "WhisperLive": "WhisperLive, a port of its own (`--whisper-live-port 9090`), any path",
    "EchoPanel": "EchoPanel, `WS /ws/live-listener`",
    "Wyoming": "Wyoming over TCP, a port of its own (`--wyoming-port 10300`)",
}
_BLOCK = re.compile(r"(<!-- table: conformance -->\n).*?(<!-- end -->)", re.S)


class ConformanceRow(NamedTuple):
    """What a test proves of a protocol."""

    protocol: str
    feature: str
    here: str


def update_tables(text: str) -> str:
    """The document with its table as the tests have it."""
    return _BLOCK.sub(lambda found: found[1] + table() + found[2], text)


def table() -> str:
    """A row for every feature, those of a protocol together."""
    rows = [*_rows()]
    lines = ["| protocol | feature | here |", "|---|---|---|"]
    for name, title in PROTOCOLS.items():
        for row in (row for row in rows if row.protocol == name):
            lines.append(f"| {title} | {row.feature} | {row.here} |")
            title = ""
    return "\n".join(lines).replace("|  |", "| |") + "\n"


def _rank(path: Path) -> tuple[bool, Path]:
    """The translators' tests come first: there the order is that of a conversation."""
    return "protocols" not in path.parts, path


def _rows() -> Iterator[ConformanceRow]:
    for path in sorted(TESTS.rglob("test_*.py"), key=_rank):
        text = path.read_text("utf-8")
        if "mark.conforms" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from filter(None, map(_row, node.decorator_list))


def _row(decorator: ast.expr) -> ConformanceRow | None:
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "pytest.mark.conforms":
        return None
    row = ConformanceRow(*map(ast.literal_eval, decorator.args))
    if row.protocol not in PROTOCOLS:
        raise ValueError(f"{row.protocol} is none of {', '.join(PROTOCOLS)}")
    return row


if __name__ == "__main__":
    for name in sys.argv[1:]:
        document = Path(name)
        document.write_text(update_tables(document.read_text("utf-8")), "utf-8")
