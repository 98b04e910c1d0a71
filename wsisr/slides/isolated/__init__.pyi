from .proxy import VARIABLE as VARIABLE
from .proxy import is_wanted as is_wanted
from .proxy import open_isolated as open_isolated
