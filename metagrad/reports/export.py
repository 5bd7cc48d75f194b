"""Test episodes of a run as tables: agents by step, trades, tax days, steps, episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastenvs.log import Format, Table, write, writer_of
from metagrad.experiment.learners import Learners
from metagrad.experiment.run import load_learners
from metagrad.reports.episodes import play


def tables(learners: Learners, episodes: int | None = None, seeds: Sequence[int] | None = None) -> dict[str, Table]:
    """Test episodes of a run's agents and designer, by table and column.

    Parameters
    ----------
    learners : Learners
        Of a run, as :func:`metagrad.experiment.run.load_learners` gives them.
    episodes : int, optional
        Of each seed; by default as many as the run's own test has, which it then repeats exactly.
    seeds : sequence of int, optional
        Seeds of the run; by default all.

    Returns
    -------
    dict of dict of ndarray
        The tables of :class:`fastenvs.log.EpisodeLog`, for Gather-Trade-Build those of
        :class:`fastenvs.gtb.EpisodeLog`, with ``seed`` and ``episode`` in place of ``env`` and ``episode``. The agents
        have a column ``incentive``, what the designer paid them in a step; steps and episodes have its sums,
        ``incentives``. They are missing where one mind acts for all.
    """
    run = learners.experiment.run
    seeds = run.seeds if seeds is None else seeds
    episodes = run.test_episodes if episodes is None else episodes
    parts = [played.tables(seeds) for played in play(learners, episodes, seeds)]
    return {
        name: {column: np.concatenate([part[name][column] for part in parts]) for column in table}
        for name, table in parts[0].items()
    }


def export(
    folder: Path, out: Path, episodes: int | None = None, seeds: Sequence[int] | None = None, format: Format = "csv"
) -> list[Path]:
    """Write the :func:`tables` of a run to a folder, one file each; returns the files.

    Raises
    ------
    ValueError
        If there is no such format, or a seed is none of the run's.
    ModuleNotFoundError
        If ``pyarrow``, which writes Parquet, is not installed; nothing is played then.
    """
    writer_of(format)  # fails before anything is played
    return write(tables(load_learners(folder), episodes, seeds), out, format)
