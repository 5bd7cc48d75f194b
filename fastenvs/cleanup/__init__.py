"""Cleanup: agents who collect apples, and clean the river that apples need. One file a part of the rules.

Apples grow on one side of a walled room as long as the river on the other side is clean enough. Collecting pays the
collector; cleaning, with a beam, pays nobody.
"""

from fastenvs.cleanup.config import PRESETS, Options
from fastenvs.cleanup.env import Cleanup

__all__ = ["PRESETS", "Cleanup", "Options"]
