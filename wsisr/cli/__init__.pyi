from .main import cli as cli
from .main import run as run
