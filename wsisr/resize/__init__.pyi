from .area import area_span as area_span
from .area import reduce_area as reduce_area
from .area import reduced_size as reduced_size
from .halving import halve as halve
from .weights import area_matrix as area_matrix
from .weights import cubic_matrix as cubic_matrix
from .weights import cubic_span as cubic_span
