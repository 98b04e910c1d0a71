from .dataset import Item as Item
from .dataset import of_kind as of_kind
from .dataset import read_manifest as read_manifest
