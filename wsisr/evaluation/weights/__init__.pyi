from .store import find as find
from .store import overview as overview
