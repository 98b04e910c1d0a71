from .codestreams import DamagedPieceError as DamagedPieceError
from .codestreams import j2k_header as j2k_header
from .codestreams import jpeg_size as jpeg_size
from .codestreams import says_its_colours as says_its_colours
from .codestreams import subsampled_j2k as subsampled_j2k
from .tiff_tags import Codec as Codec
from .tiff_tags import TagId as TagId
