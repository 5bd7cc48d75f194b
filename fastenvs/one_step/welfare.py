"""What the coin and the utilities of one economy come to, for the game and for its answer alike."""

from __future__ import annotations

from fastenvs.jit import part
from fastenvs.metrics import gini, inverse_income_mean


@part
def social(objective, coin, utility, scratch):
    """Welfare, equality and productivity of coin and utilities ``[A]``; ``scratch [A]`` is overwritten.

    ``objective`` is a place in :data:`fastenvs.one_step.config.OBJECTIVES`.
    """
    total = 0.0
    for i in range(coin.shape[0]):
        total += coin[i]
    equality = 1.0 - gini(coin, scratch)
    if objective == 0:
        welfare = equality * (total / coin.shape[0])
    elif objective == 1:
        welfare = inverse_income_mean(coin, coin)
    else:
        welfare = inverse_income_mean(coin, utility)
    return welfare, equality, total
