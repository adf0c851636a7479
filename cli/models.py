"""``voxlive models``."""

from __future__ import annotations


def models() -> None:
    """List the models that can be asked for by name."""
    from rich.console import Console
    from rich.table import Table

    from ..checkpoints.resolve import ALIASES
    from ..streaming.registry import BUILT_IN, FAMILIES

    table = Table(box=None, pad_edge=False)
    for heading in ("--model", "what it is"):
        table.add_column(heading)
    for name in BUILT_IN:
        table.add_row(name, "built in: nothing to download")
    for name, repository in ALIASES.items():
        table.add_row(name, repository)
    for family in FAMILIES:
        table.add_row("folder or owner/name", f"any {family} checkpoint")
    Console().print(table)
