from .api import foresee as foresee
from .api import load_model as load_model
from .api import upscale as upscale
from .api import upscale_image as upscale_image
from .api_cohort import batch as batch
from .api_cohort import foresee_batch as foresee_batch
from .api_remote import convert as convert
from .api_remote import evaluate as evaluate
from .api_remote import staged as staged
from .engine import Job as Job
from .engine import Result as Result
from .errors import ExistsError as ExistsError
from .errors import ModelError as ModelError
from .errors import OptionError as OptionError
from .errors import OutputError as OutputError
from .errors import SlideError as SlideError
from .errors import UsageError as UsageError
from .errors import WsisrError as WsisrError
from .evaluation import measure as measure
from .plan import Rect as Rect
from .progress import State as State
from .slides import open_slide as open_slide

__version__: str
