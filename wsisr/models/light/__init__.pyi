from .choice import light_network as light_network
from .plain import FACTOR as FACTOR
from .plain import PlainBlock as PlainBlock
from .plain import PlainLayers as PlainLayers
