from .run import list_tiles as list_tiles
