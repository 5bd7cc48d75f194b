"""Games: tasks, presets and methods. Adding one is a module and a line in ``GAMES``."""

from metagrad.tasks.base import TaskError, VectorTask
from metagrad.tasks.experiments import Experiment, RunOptions
from metagrad.tasks.joint import JointAction

__all__ = ["GAMES", "Experiment", "JointAction", "RunOptions", "TaskError", "VectorTask"]

#: Name on the command line -> module with ``PRESETS`` and ``METHODS``, the first preset being the default, and where a
#: game needs it ``adjusted(experiment, base)``: what follows from the options that were changed on the command line.
GAMES = {
    "escape-room": "metagrad.tasks.escape_room",
    "cleanup": "metagrad.tasks.cleanup",
    "gtb": "metagrad.tasks.gtb",
    "one-step-economy": "metagrad.tasks.one_step",
}
