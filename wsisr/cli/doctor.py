"""The command `wsisr doctor`."""

from __future__ import annotations

import click

from wsisr.cli.grouping import GroupedCommand


@click.command(cls=GroupedCommand)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Checks versions, devices and libraries, and says how to get what is missing."""
    from wsisr.doctor import examine

    checks = examine()
    for check in checks:
        click.echo(f"{check.state:8}{check.subject:24}{check.detail}")
    if any(check.state == "missing" for check in checks):
        context.exit(1)
