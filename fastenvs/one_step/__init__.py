"""The one-step economy: agents choose labour once and are taxed. A tax problem whose answer can be computed."""

from fastenvs.one_step.config import Options
from fastenvs.one_step.env import OneStepEconomy
from fastenvs.one_step.optimum import Outcome, Schedule, best_response, best_schedule, saez_schedule

__all__ = ["OneStepEconomy", "Options", "Outcome", "Schedule", "best_response", "best_schedule", "saez_schedule"]
