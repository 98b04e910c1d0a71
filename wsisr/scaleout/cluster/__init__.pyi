from .bands import upscale_on as upscale_on
from .connection import open_cluster as open_cluster
from .crew import DaskCrew as DaskCrew
