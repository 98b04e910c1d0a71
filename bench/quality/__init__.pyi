from .tiles import list_tiles as list_tiles
