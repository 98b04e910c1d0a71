from .cache import DEFAULT_GB as DEFAULT_GB
from .cache import Cache as Cache
from .cache import open_cache as open_cache
from .destination import Destination as Destination
from .destination import find_destination as find_destination
from .staging import Stager as Stager
from .staging import staged as staged
