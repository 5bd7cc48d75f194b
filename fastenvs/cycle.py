"""The tax cycle at the start of an episode, for the kernels of games."""

from fastenvs.jit import part


@part
def restart(taxes, coin, escrow_coin, e):
    """Begin the first period of copy ``e``, under the rates in force; what agents hold now is not income."""
    taxes.position[e] = 1
    taxes.n_days[e] = 0
    taxes.rate_sum[e] = 0.0
    taxes.occupancy[e] = 0
    taxes.effective_sum[e] = 0.0
    taxes.paid_sum[e] = 0.0
    taxes.income_sum[e] = 0.0
    taxes.choice[e] = 0
    for b in range(taxes.live.shape[1]):
        taxes.shown[e, b] = taxes.live[e, b]
    for i in range(coin.shape[1]):
        taxes.last_coin[e, i] = coin[e, i] + escrow_coin[e, i]
        taxes.last_income[e, i] = 0.0
        taxes.last_marginal[e, i] = 0.0
        taxes.sorted_income[e, i] = 0.0
        taxes.marginal_now[e, i] = taxes.live[e, 0]
