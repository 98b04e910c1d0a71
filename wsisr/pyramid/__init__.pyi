from .encode import tiff_codec as tiff_codec
from .levels import z_order as z_order
from .output import open_writer as open_writer
from .spec import PyramidSpec as PyramidSpec
from .writer import PyramidWriter as PyramidWriter
