"""What a linear critic sees of an economy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metagrad.batch import Batch
from metagrad.tasks.taxes import tax_math
from metagrad.tasks.taxes.schedule import records
from metagrad.tasks.taxes.tax_math import TaxRecord


@dataclass(frozen=True)
class OwnedByRank:
    """What agents own before every step, by skill rank, the welfare of it, and both times the share of time left."""

    def __call__(self, batch: Batch) -> Tensor:
        """Features ``[S, T, K, F]``, float64."""
        return torch.stack([_features(record) for record in records(batch)])


def _features(record: TaxRecord) -> Tensor:
    before, goods = record.wealth_before, record.goods.unbind(-1)
    order = record.rank.argsort(1).expand_as(before)
    columns = [before, record.present_income, *goods, *(g.sqrt() for g in goods)]
    owned = torch.cat([column.gather(-1, order) for column in columns], -1)
    x = torch.cat([owned, tax_math.welfare(before, record.rules)[..., None]], -1)
    steps = len(x)
    left = torch.arange(steps, 0, -1, dtype=x.dtype, device=x.device)[:, None, None] / steps
    return torch.cat([x, x * left], -1)
