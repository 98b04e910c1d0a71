from .tasks import Crew as Crew
from .tasks import Ended as Ended
from .tasks import Outcome as Outcome
from .tasks import SlideTask as SlideTask
from .tasks import Update as Update
