"""What the pages of reports have in common: how templates are filled, and the style."""

from __future__ import annotations

from functools import lru_cache

import jinja2


@lru_cache(maxsize=4)
def page_template(package: str, folder: str, name: str) -> jinja2.Template:
    """Loads the template of a page; it escapes every value and can include `report.css`.

    Args:
        package: the importable package that the template is in.
        folder: its folder there.
        name: its file.

    Returns:
        The template, for which a value that is missing is an error.
    """
    places = [(package, folder), ("wsisr.evaluation", "report")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(*place) for place in places]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
