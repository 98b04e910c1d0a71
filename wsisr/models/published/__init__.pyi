from .conversion import convert as convert
from .prompt import from_open_clip as from_open_clip
from .prompt import from_transformers as from_transformers
from .single import INSTALL as INSTALL
from .single import describe_network as describe_network
from .single import load_network as load_network
