"""Writing tiled pyramids: OME-TIFF and OME-Zarr, streamed, complete or resumable."""

from wsisr.pyramid.levels import z_order
from wsisr.pyramid.output import open_writer
from wsisr.pyramid.spec import PyramidSpec
from wsisr.pyramid.writer import PyramidWriter

__all__ = ["PyramidSpec", "PyramidWriter", "open_writer", "z_order"]
