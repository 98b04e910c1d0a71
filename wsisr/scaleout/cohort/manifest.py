"""The list of slides that a cohort consists of: from the command line, or from a CSV manifest."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsisr.errors import OptionError, UsageError
from wsisr.pyramid import TIFF_SUFFIXES, ZARR_SUFFIXES
from wsisr.scaleout.cohort.cells import COLUMNS, Reading, read_cells
from wsisr.scaleout.cohort.inputs import expand, refuse
from wsisr.scaleout.cohort.rows import Row
from wsisr.sharing import pseudonym
from wsisr.slides import slide_stem
from wsisr.urls import is_url, last_part, shown

MANIFEST_SUFFIXES = (".csv", ".tsv")
OUTPUT_SUFFIXES = (*TIFF_SUFFIXES, *ZARR_SUFFIXES)
SEPARATORS = (",", ";", "\t")
MAX_MANIFEST_BYTES = 64 << 20
LONGEST_ID_BYTES = 180
"""A file's name may have 255 bytes, and those of logs and parts are longer than the id."""
_UNSAFE = frozenset('/\\<>:"|?*')
_FIELDS = ("slide", "id", "output", "hr")


@dataclass(frozen=True)
class _Line:
    """A row of a manifest, or an input of the command line, before it has an id and an output.

    Attributes:
        place: how messages name it.
        values: what it sets.
    """

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class _Naming:
    """How slides and results are called that have no names of their own.

    Attributes:
        out: folder of the results.
        suffix: of the results.
        anonymous: whether by a digest.
    """

    out: Path
    suffix: str
    anonymous: bool


def read_rows(
    inputs: Sequence[str | Path],
    out: Path,
    suffix: str = ".ome.tif",
    *,
    anonymous: bool = False,
) -> list[Row]:
    """Lists the slides of a cohort.

    Everything that can be told without opening a slide is examined, so that nothing starts which
    could not end well.

    Args:
        inputs: slides, folders of slides, patterns and URLs; or one CSV manifest alone.
        out: folder of the results; it need not exist.
        suffix: of the results that the manifest does not name: `.ome.tif`, `.ome.tiff` or
            `.ome.zarr`.
        anonymous: whether slides without an id or an output of their own are called by a digest.

    Returns:
        The slides in the order given; folders and patterns by name.

    Raises:
        UsageError: what is wrong, where, and what to do; of several problems the first three.
        SlideError: a folder cannot be read.
    """
    if suffix not in OUTPUT_SUFFIXES:
        raise OptionError("suffix", suffix, f"must be one of {', '.join(OUTPUT_SUFFIXES)}")
    manifests = [place for place in inputs if _is_manifest(place)]
    if not manifests:
        lines = [_Line(shown(slide), {"slide": slide}) for slide in expand(inputs, out)]
        rows, problems = _with_names(lines, _Naming(out, suffix, anonymous))
        refuse(problems)
    elif len(inputs) == 1:
        path = Path(manifests[0])
        lines, problems = _read_manifest(path)
        rows, further = _with_names(lines, _Naming(out, suffix, anonymous))
        refuse([*problems, *further], str(path))
    else:
        raise UsageError(f"{manifests[0]} is a manifest, which stands alone; leave out the others")
    if not rows:
        raise UsageError("there are no slides to upscale; give slides, a folder or a manifest")
    return rows


def _is_manifest(place: str | Path) -> bool:
    return not is_url(str(place)) and Path(place).suffix.lower() in MANIFEST_SUFFIXES


# reading


def _read_manifest(path: Path) -> tuple[list[_Line], list[str]]:
    """Reads a manifest; gives its good rows, and what is wrong with the others."""
    header, separator, records = _table(path, _text_of(path))
    reading = Reading(path.parent, decimal_comma=separator != ",")
    lines, problems = [], []
    for number, row in records:
        if any(row[len(header) :]):
            count = f"{len(row)} cells for {len(header)} columns"
            problems.append(f"line {number}: {count}; quote a cell that holds {separator!r}")
            continue
        values, wrong = _read_row(header, row, reading)
        problems += [f"line {number}, {each}" for each in wrong]
        if not wrong:
            lines.append(_Line(f"line {number}", values))
    return lines, problems


def _read_row(
    header: Sequence[str], row: Sequence[str], reading: Reading
) -> tuple[dict[str, Any], list[str]]:
    """Reads a row; cells that are missing at its end are blank."""
    given = {name: cell for name, cell in zip(header, row, strict=False) if cell}
    unnamed = given.pop("", None)
    values, wrong = read_cells(given, reading)
    if unnamed is not None:
        wrong.append(f"the cell {unnamed[:60]!r} stands in a column without a name")
    if not given.keys() & {"slide", "wsi"}:
        wrong.append("column slide: is blank; give the path or URL of the slide")
    return values, wrong


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise UsageError(
                f"{path} is larger than {MAX_MANIFEST_BYTES >> 20} MB; is it a manifest?"
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check it") from error
    # spreadsheets save "Unicode text" as UTF-16
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        text = data.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{path} holds zero bytes and is no text; save it as CSV in UTF-8")
    return text


def _table(path: Path, text: str) -> tuple[list[str], str, list[tuple[int, list[str]]]]:
    """Gives the header, the separator, and the rows that are not blank with their line numbers."""
    separator = _separator(text)
    try:
        records = list(_records(text, separator))
    except csv.Error as error:
        raise UsageError(f"{path}, {error}; check the quotation marks") from error
    if records and re.fullmatch("sep=.?", "".join(records[0][1]).lower()):
        del records[0]
    if not records:
        raise UsageError(f"{path} is empty; give a header line and a line for each slide")
    header = [cell.lower() for cell in records[0][1]]
    _check_header(path, header)
    return header, separator, records[1:]


def _separator(text: str) -> str:
    """Finds what separates the cells: that by which the header has most of the known columns.

    The header is the first line that is not blank, but for spreadsheets' `sep=;` before it.
    """
    lines = (line for line in text.splitlines() if line.strip())
    first = next((line for line in lines if not re.match("sep=", line, re.IGNORECASE)), "")

    def known_columns(separator: str) -> int:
        cells = next(csv.reader([first], delimiter=separator, skipinitialspace=True))
        return len({cell.strip().lower() for cell in cells} & COLUMNS.keys())

    return max(SEPARATORS, key=known_columns)


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(f"line {number}: {error}") from error
        if any(cells):
            yield number, cells


def _check_header(path: Path, header: Sequence[str]) -> None:
    known = ", ".join(COLUMNS)
    unknown = [name for name in header if name and name not in COLUMNS]
    if unknown:
        names = ", ".join(repr(name[:60]) for name in unknown[:5])
        raise UsageError(f"{path}: unknown column {names}; the columns that are known are {known}")
    named = [COLUMNS[name] for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice:
        raise UsageError(f"{path}: the column {twice} is there twice; leave one of them out")
    if "slide" not in named:
        raise UsageError(f"{path}: the column slide is missing; the first line names the columns")


# ids and outputs


def _with_names(lines: Sequence[_Line], naming: _Naming) -> tuple[list[Row], list[str]]:
    """Gives every slide its id and its output, and says what is wrong with them."""
    rows, problems = [], []
    for line in lines:
        row = _row(line.values, naming)
        rows.append(row)
        problems += [f"{line.place}: {each}" for each in _faults(row)]
    places = [line.place for line in lines]
    problems += _same_ids(places, rows)
    problems += _same_outputs(places, rows)
    return rows, problems


def _row(values: Mapping[str, Any], naming: _Naming) -> Row:
    out, suffix = naming.out, naming.suffix
    slide, output = values["slide"], values.get("output")
    name = values.get("id")
    if not name and not output and naming.anonymous:
        name = pseudonym(slide)
    name = name or slide_stem(last_part(output or slide))
    return Row(
        id=unicodedata.normalize("NFC", name),
        slide=slide,
        output=out / (output or name + suffix),
        options={key: value for key, value in values.items() if key not in _FIELDS},
        hr=values.get("hr"),
    )


def _faults(row: Row) -> Iterator[str]:
    why = _unsafe(row.id)
    if why:
        yield f"the id {row.id[:60]!r} cannot name files: it {why}; give another in a column id"
    if not row.output.name.lower().endswith(OUTPUT_SUFFIXES):
        yield f"the output {row.output} does not end in {', '.join(OUTPUT_SUFFIXES)}; rename it"


def _unsafe(name: str) -> str:
    """Says why a text cannot name a file on every system; nothing where it can."""
    if not name:
        return "is empty"
    if len(name.encode("utf-8", "replace")) > LONGEST_ID_BYTES:
        return f"has more than {LONGEST_ID_BYTES} bytes"
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        return "begins or ends with a full stop or a space"
    wrong = next((sign for sign in name if sign in _UNSAFE or not sign.isprintable()), None)
    return f"holds {wrong!r}" if wrong else ""


def _same_ids(places: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    remedy = "give each its own in a column id of a manifest"
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        other = first.setdefault(row.id.casefold(), index)
        if other != index:
            yield f"{places[other]} and {places[index]} have one id, {row.id[:60]}; {remedy}"


def _same_outputs(places: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    inputs = {
        _key(path): place for place, row in zip(places, rows, strict=True) for path in _read(row)
    }
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        key, place = _key(row.output), places[index]
        if key in inputs:
            yield (
                f"{place}: the output {row.output} is an input of {inputs[key]}; "
                "choose another output or <out>"
            )
        other = first.setdefault(key, index)
        # that two of one id have one output, too, needs no saying
        if other != index and rows[other].id.casefold() != row.id.casefold():
            yield f"{places[other]} and {place} have one output, {row.output}; give each its own"


def _read(row: Row) -> Iterator[Path]:
    """Yields the files and folders that a row reads."""
    for place in (row.slide, row.hr, row.options.get("tissue")):
        if place and place not in ("auto", "off") and not is_url(place):
            yield Path(place)


def _key(path: Path) -> str:
    """Makes a text that is the same for two paths of one file, on any file system."""
    return unicodedata.normalize("NFC", str(path.resolve())).casefold()
