"""Games."""

from metagrad.tasks.base import JointAction, TaskError, VectorTask

__all__ = ["JointAction", "TaskError", "VectorTask"]
