"""Everything wsisr raises on purpose. A message names the file or option and the remedy.

Messages speak of options by their names in Python. Where a message mentions one, it stands in
angle brackets, `<window>`, so that the command line can spell it its own way, `--window`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_MENTION = re.compile(r"<([a-z][a-z_]*)>")


class WsisrError(Exception):
    """Base of all expected failures; its text is one line meant for the user."""

    exit_code = 1

    def spelled(self, spell: Callable[[str], str]) -> str:
        """Gives the message with every option that it mentions spelled by `spell`."""
        return _MENTION.sub(lambda found: spell(found[1]), super().__str__())

    def __str__(self) -> str:
        return self.spelled(lambda option: option)


class UsageError(WsisrError):
    """A request that cannot be carried out as it stands."""

    exit_code = 2


class OptionError(UsageError):
    """A value of an option that cannot be carried out.

    Attributes:
        option: name of the argument, for instance `window`.
        value: what was given, or None where the value is beside the point.
        rule: what holds for the option and what to do instead.
    """

    def __init__(self, option: str, value: object, rule: str) -> None:
        given = "" if value is None else f" {value:g}" if isinstance(value, float) else f" {value}"
        super().__init__(f"<{option}>{given}: {rule}")
        self.option, self.value, self.rule = option, value, rule

    def __reduce__(self) -> tuple[type[OptionError], tuple[str, object, str]]:
        return type(self), (self.option, self.value, self.rule)


class SlideError(WsisrError):
    """A slide that cannot be opened, read or understood."""


class ModelError(WsisrError):
    """A model that is missing, incomplete, of the wrong shape or unsafe to load."""


class OutputError(WsisrError):
    """An output that cannot be created, written or finished."""


class ExistsError(OutputError):
    """An output that is there already: the command is right, and nothing was done."""
