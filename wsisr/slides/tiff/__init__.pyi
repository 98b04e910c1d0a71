from .layout import open_tiff as open_tiff
from .ome_xml import OmeImage as OmeImage
from .ome_xml import parse_ome as parse_ome
from .pieces import NotDirectError as NotDirectError
