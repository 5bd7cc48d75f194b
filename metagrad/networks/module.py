"""Any torch module as a network, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metagrad.networks.base import Obs, Shapes, Where, inputs_of
from metagrad.optim import Params

_AT_ONCE = 64  # rows whose own gradients are held at a time


class ModuleNetwork:
    """Any torch module as a network: parameters of all networks are stacked, and the passes are torch's.

    The module is called with the observations other than the mask in the order of their names, ``[R, ...]`` each (one
    tensor where there is one), and gives ``[R, outputs]``: as many as there are actions, or one for a critic. Pictures
    of bytes are given as floats, from 0 to 255 and channel-last. Modules run in evaluation mode; their buffers are
    constants.

    Parameters
    ----------
    make : callable
        Gives a fresh module, whose initial parameters are drawn from torch's random numbers. Its buffers are constants,
        the same in all modules.
    side_by_side : bool
        Run all networks in one call (``torch.vmap``), where a network's last bits may depend on how many there are;
        False to run one after the other, as modules need that cannot be vectorised, such as recurrent ones.
    """

    stacks = True
    sequential = False

    def __init__(self, make: Callable[[], nn.Module], side_by_side: bool = True) -> None:
        self.make, self.side_by_side = make, side_by_side
        self._module: nn.Module | None = None

    def init(
        self, generators: Sequence[np.random.Generator], n: int, shapes: Shapes, outputs: int, where: Where
    ) -> Params:
        """Draw ``n`` networks from each generator; torch's own random state is left as it is."""
        drawn = [self._draw(int(g.integers(2**62)), shapes, outputs) for g in generators for _ in range(n)]
        first = drawn[0]
        constant = dict((self._module or first).named_buffers())  # of the networks drawn before, if there are any
        for name, buffer in (pair for module in drawn for pair in module.named_buffers()):
            if name not in constant or not torch.equal(buffer, constant[name]):
                raise ValueError(
                    f"the buffer {name!r} of {type(first).__name__} is another in each module, but buffers must be "
                    "constants: make it a parameter"
                )
        self._module = first
        with torch.no_grad():
            return {
                name: torch.stack([module.get_parameter(name) for module in drawn]).to(where.device, where.dtype)
                for name, _ in first.named_parameters()
            }

    def _draw(self, seed: int, shapes: Shapes, outputs: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = self.make()
            if not isinstance(module, nn.Module):
                raise ValueError(f"make of a ModuleNetwork must give a torch module, got {type(module).__name__}")
            module.eval()
            inputs = [torch.zeros(2, *shapes[name]) for name in sorted(shapes) if name != "mask"]
            name = type(module).__name__
            with torch.no_grad():
                try:
                    out = module.float()(*inputs)  # lazy layers take shape
                except Exception as error:
                    named = ", ".join(f"{n!r} {[2, *shapes[n]]}" for n in sorted(shapes) if n != "mask")
                    raise ValueError(f"{name} cannot be called with the observations {named}: {error}") from error
        if not isinstance(out, Tensor) or out.shape != (2, outputs):
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            seen = ", ".join(str(list(x.shape)) for x in inputs)
            raise ValueError(f"{name} must give [R, {outputs}] for [R, ...]; for {seen} it gives {got}")
        if not list(module.parameters()):
            raise ValueError(f"{name} has no parameters to learn")
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
                raise ValueError(
                    f"{name} has a layer {type(part).__name__}, which acts at random or keeps statistics of what it "
                    "sees; the passes of one batch would not be those of one function"
                )
        return module

    def forward(self, params: Params, obs: Obs, steps: int = 1) -> ModuleForward:
        """Run the networks on rows; no autograd graph is built until a derivative is asked for."""
        return ModuleForward(self, params, obs)

    def __call__(self, params: Params, obs: Obs, steps: int = 1) -> Tensor:
        """The same outputs, differentiable."""
        dtype = next(iter(params.values())).dtype
        inputs = tuple(x.to(dtype) for x in inputs_of(obs).values())
        if self.side_by_side:
            return torch.vmap(self._one)(params, inputs)
        each = range(len(inputs[0]))
        return torch.stack([self._one({n: p[g] for n, p in params.items()}, tuple(x[g] for x in inputs)) for g in each])

    def _one(self, params: Params, inputs: tuple[Tensor, ...]) -> Tensor:
        module = self._module
        if module is None:
            raise RuntimeError("a ModuleNetwork has to draw networks before it can run any")
        like = next(iter(params.values()))
        buffers = {
            name: b.to(like.device, like.dtype if b.is_floating_point() else b.dtype)
            for name, b in module.named_buffers()
        }
        return torch.func.functional_call(module, (params, buffers), inputs)


class Repeated:
    """Base of passes that give several gradients by going back several times; see :class:`base.Forward`."""

    params: Params

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        raise NotImplementedError

    def several(self, d_outs: Sequence[Tensor]) -> Params:
        """:meth:`vjp` of each, ``[J, G, ...]``."""
        parts = [self.vjp(d_out) for d_out in d_outs]
        return {name: torch.stack([part[name] for part in parts]) for name in self.params}

    def vjps(self, d_out: Tensor, weights: Tensor) -> Params:
        """Gradients of ``sum(weights[..., j, None] * d_out * out)`` for all j, ``[J, G, ...]``."""
        if weights.shape[-1] == 0:
            return {name: p.new_empty(0, *p.shape) for name, p in self.params.items()}
        return self.several([d_out * weight[..., None] for weight in weights.unbind(-1)])

    def row_norms(self, d_out: Tensor) -> Tensor:
        """Squared length of each row's own gradient of ``(d_out * out).sum(-1)``, ``[G, R]``."""
        n, parts = d_out.shape[1], []
        for rows in torch.arange(n, device=d_out.device).split(_AT_ONCE):
            each = nn.functional.one_hot(rows, n).to(d_out.dtype)[..., None]
            grads = self.several([d_out * one for one in each]).values()
            parts.append(torch.stack([(g * g).flatten(2).sum(2) for g in grads]).sum(0))
        return torch.cat(parts).T


class ModuleForward(Repeated):
    """A pass of torch modules; see :class:`metagrad.networks.base.Forward`."""

    def __init__(self, network: ModuleNetwork, params: Params, obs: Obs) -> None:
        self.network, self.params, self._obs = network, params, obs
        self._graph: tuple[Params, Tensor] | None = None
        with torch.no_grad():
            self.out = network(params, obs)

    def vjp(self, d_out: Tensor) -> Params:
        """Gradient of ``sum(d_out * out)`` with respect to the parameters."""
        return self._back(d_out)

    @torch.no_grad()
    def jvp(self, tangent: Params) -> Tensor:
        """Change of the outputs when the parameters move along ``tangent``."""
        return torch.func.jvp(lambda params: self.network(params, self._obs), (self.params,), (tangent,))[1]

    def several(self, d_outs: Sequence[Tensor]) -> Params:
        """:meth:`vjp` of each, ``[J, G, ...]``, at once where the modules can."""
        if self.network.side_by_side:
            return self._back(torch.stack(list(d_outs)), is_grads_batched=True)
        return super().several(d_outs)

    def _back(self, d_out: Tensor, **options: Any) -> Params:
        """Gradients by the graph, which is made when it is first needed."""
        if self._graph is None:
            leaves = {name: p.detach().requires_grad_() for name, p in self.params.items()}
            with torch.enable_grad():
                self._graph = leaves, self.network(leaves, self._obs)
        leaves, out = self._graph
        found = torch.autograd.grad(
            out, list(leaves.values()), d_out, retain_graph=True, allow_unused=True, materialize_grads=True, **options
        )
        return dict(zip(leaves, found, strict=True))
