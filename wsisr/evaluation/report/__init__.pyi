from .files import REPORT as REPORT
from .files import check_report as check_report
from .files import write_report as write_report
from .page import page_template as page_template
from .pictures import data_uri as data_uri
from .results import Evaluation as Evaluation
from .results import TileResult as TileResult
from .results import to_json as to_json
