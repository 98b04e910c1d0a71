from .writing import ReportPaths as ReportPaths
from .writing import write_report as write_report
