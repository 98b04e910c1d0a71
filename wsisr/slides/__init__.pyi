from .base import Level as Level
from .base import Slide as Slide
from .describe import describe_slide as describe_slide
from .opening import CACHE_BYTES as CACHE_BYTES
from .opening import open_slide as open_slide
from .view import View as View
from .view import coarser_view as coarser_view
from .view import select_view as select_view
