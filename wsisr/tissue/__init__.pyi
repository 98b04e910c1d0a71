from .files import check_mask_file as check_mask_file
from .files import load_mask as load_mask
from .find import BLACK as BLACK
from .find import INK_LEAD as INK_LEAD
from .find import INK_SATURATION as INK_SATURATION
from .find import tissue_mask as tissue_mask
from .mask import TissueMask as TissueMask
from .mask import is_own_mask as is_own_mask
