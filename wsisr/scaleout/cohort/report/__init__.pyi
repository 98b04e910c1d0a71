from .writing import ReportPaths as ReportPaths
from .writing import check_report as check_report
from .writing import write_report as write_report
