"""Gather-Trade-Build: an economy of agents who gather, trade, build and pay taxes. One file a component."""

from fastenvs.gtb.config import PAPER_ANNEAL, PRESETS, Options
from fastenvs.gtb.env import GatherTradeBuild
from fastenvs.gtb.log import EpisodeLog

__all__ = ["PAPER_ANNEAL", "PRESETS", "EpisodeLog", "GatherTradeBuild", "Options"]
