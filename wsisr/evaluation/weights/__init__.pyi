from .store import REGISTRY as REGISTRY
from .store import VARIABLE as VARIABLE
from .store import folder as folder
from .store import fetch as fetch
from .store import find as find
from .store import overview as overview
from .store import present as present
