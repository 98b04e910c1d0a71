from .devices import choose_devices as choose_devices
from .devices import usable_cores as usable_cores
from .pool import WorkerPool as WorkerPool
from .run import pool_opener as pool_opener
from .run import upscale as upscale
