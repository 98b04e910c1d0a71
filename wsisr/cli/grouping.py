"""A command whose help shows its options in groups, and whose errors know options by old names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import click

GROUPS = ("Input", "Model", "Measures", "Output", "Run")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class GroupedOption(click.Option):
    """An option that stands in a group of the help.

    Attributes:
        group: one of `GROUPS`.
    """

    def __init__(self, *arguments: Any, group: str, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.group = group

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        """Gives what stands in brackets behind the help; a default in words needs no more."""
        extra = super().get_help_extra(ctx)
        if isinstance(self.show_default, str):
            extra["default"] = self.show_default
        return extra


class GroupedCommand(click.Command):
    """A command with grouped options.

    Attributes:
        renamed: names that options had before, and their names now.
    """

    def __init__(
        self, *arguments: Any, renamed: Mapping[str, str] | None = None, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.renamed = renamed or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each group under its own heading; --help itself closes the last one."""
        for group in GROUPS:
            lines = [
                line
                for option in self.get_params(ctx)
                if isinstance(option, click.Option)
                and getattr(option, "group", GROUPS[-1]) == group
                and (line := option.get_help_record(ctx)) is not None
            ]
            if lines:
                with formatter.section(group):
                    formatter.write_dl(lines)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments.

        Raises:
            click.UsageError: an unknown option; where it has another name now, it says which.
        """
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            new = self.renamed.get(error.option_name)
            if new is None:
                raise
            message = f"No such option '{error.option_name}'. Did you mean '{new}'?"
            raise click.UsageError(message, ctx) from None


def _option_of(group: str) -> Callable[..., Decorator]:
    return partial(click.option, cls=GroupedOption, group=group)


input_option, model_option, measure_option, output_option, run_option = map(_option_of, GROUPS)
