"""The agents' response to rates, carried along with their learning.

One step of the agents answers a change of the rates only a little: Adam lets a tenth of a gradient act at once and
the rest in the steps after, and behaviour takes tens of steps to follow an incentive. :class:`Response` holds the
derivative of the agents' parameters with respect to rates common to all periods, and carries it forward through every
step (real-time recurrent learning). What earlier rates did fades by a constant factor a step, which stands for the
curvature of the agents' objective: their response time, a quantity that can be measured, in place of Hessian products.
Being a sum over many batches it also has little noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metagrad.legacy import optim
from metagrad.legacy.nets import Params


class Response(NamedTuple):
    """Derivatives of the agents' parameters and of Adam's first moment, bracket by bracket: ``[B, ...]``."""

    params: Params
    moment: Params

    @classmethod
    def start(cls, policy: Params, brackets: int) -> Response:
        """No response yet."""
        params, moment = ({n: p.new_zeros(brackets, *p.shape) for n, p in policy.items()} for _ in range(2))
        return cls(params, moment)

    def advance(
        self, adam: optim.Adam, grads: Params, state: optim.AdamState, d_grads: Params, memory: float, steps: int = 1
    ) -> Response:
        """Through the agents' steps on a batch.

        Parameters
        ----------
        adam, grads, state
            The last step: its optimiser, gradient, and the optimiser's state before it.
        d_grads : dict
            Derivatives of the gradient with respect to the rates, ``[B, ...]``.
        memory : float
            What is left of the derivative so far.
        steps : int
            Number of steps.
        """
        before = {name: memory * p for name, p in self.params.items()}
        return Response(*adam.pushforward(grads, state, before, self.moment, d_grads, steps))

    def along(self, adjoint: Params) -> Tensor:
        """Derivative with respect to the rates of what has this derivative with respect to the parameters, ``[B]``."""
        parts = [torch.einsum("b...,...->b", self.params[name], v) for name, v in adjoint.items()]
        return torch.stack(parts).sum(0)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {f"{kind}/{name}": t for kind in self._fields for name, t in getattr(self, kind).items()}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> Response:
        """Inverse of :meth:`tensors`."""
        kinds: dict[str, Params] = {kind: {} for kind in cls._fields}
        for key, t in tensors.items():
            kind, name = key.split("/", 1)
            kinds[kind][name] = t
        return cls(**kinds)
