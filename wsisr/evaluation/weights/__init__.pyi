from .store import digest as digest
from .store import find as find
from .store import overview as overview
from .store import renew_pin as renew_pin
