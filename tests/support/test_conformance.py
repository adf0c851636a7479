from pathlib import Path

from support import conformance

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocols.md"


def test_the_document_says_what_the_tests_prove():
    text = DOCUMENT.read_text("utf-8")
    assert conformance.table() in text, "renew it as support/conformance.py says"


def test_every_protocol_has_rows():
    table = conformance.table()
    assert all(f"| {title} |" in table for title in conformance.PROTOCOLS.values())
