from .files import write_report as write_report
from .results import Evaluation as Evaluation
from .results import TileResult as TileResult
from .results import to_json as to_json
