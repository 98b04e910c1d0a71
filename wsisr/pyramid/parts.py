"""Joins parts of a pyramid by copying their encoded tiles; nothing is decoded or encoded.

A part is the unfinished output of a run that computed some of the tiles only: `<PART>.partial`
with its journal and pieces. What its tiles give to tiles that reach into other parts is kept there
unencoded, so the writer that adopts all parts completes the levels above as if it had been given
the tiles themselves.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from wsisr.pyramid.output import part_tiles
from wsisr.pyramid.writer import PyramidWriter


def adopt_part(
    writer: PyramidWriter, part: Path, fingerprint: str, *, blanks_damage: bool = False
) -> int:
    """Copies the sound tiles of a part into an output; their checksums are verified on the way.

    A part that is missing or torn gives what of it is sound; the rest is left to be computed.

    Args:
        writer: the output, before any tile was written to it.
        part: the part's path, under which it never appears itself.
        fingerprint: that of the output.
        blanks_damage: as in `open_writer`.

    Returns:
        How many tiles of level 0 were sound.

    Raises:
        UsageError: the part belongs to another run.
        OutputError: the part is being written, or the output cannot be.
    """
    count = 0
    tiles_of = part_tiles(part, writer.spec, fingerprint, blanks_damage=blanks_damage)
    with closing(tiles_of) as tiles:
        for tile in tiles:
            writer.adopt(tile)
            count += tile.record.address[0] == 0
    return count
