"""``voxlive models``."""

from __future__ import annotations


def models() -> None:
    """List the engines and the models they serve."""
    from rich.console import Console
    from rich.table import Table

    from ..streaming.registry import BUILT_IN, FAMILIES

    table = Table(box=None, pad_edge=False)
    for heading in ("--model", "what it is"):
        table.add_column(heading)
    for name in BUILT_IN:
        table.add_row(name, "built in: nothing to download")
    for family in FAMILIES:
        table.add_row("path or hub repository", f"any {family} checkpoint")
    Console().print(table)
