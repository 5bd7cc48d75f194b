"""The passes of every network against automatic differentiation, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from fastenvs.jit import PURE_PYTHON
from metagrad import PolicyGradientAgents
from metagrad.compiled import bands, passes, sparse_conv
from metagrad.networks import MLP, ConvTrunk, Levels, ModuleNetwork, Normal, PlaneMLP, RecurrentTrunk, Where
from metagrad.networks.base import sigmoid, sigmoid_grad

DOUBLE = Where(dtype=torch.float64)
SHAPES = {"flat": (7,), "map": (5, 6, 3), "mask": (4,)}
PLANES = ((0, 1, 1), (0, 2, 255), (2, 1, 3))


class Seer(nn.Module):
    """A module on a vector and a picture, called in the order of their names."""

    def __init__(self, outputs=4):
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 2, 3), nn.Linear(2 * 3 * 4 + 7, outputs)
        self.register_buffer("scale", torch.tensor(0.1))

    def forward(self, flat, picture):
        x = torch.tanh(self.conv(picture.permute(0, 3, 1, 2) * self.scale)).flatten(1)
        return self.dense(torch.cat([x, flat], 1))


class Rnn(nn.Module):
    """A module that cannot be run side by side."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(7, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, flat, picture):
        return self.head(self.rnn(flat[:, None])[0][:, 0]) + picture.mean((1, 2, 3))[:, None]


# Network, networks side by side, steps.
NETWORKS = {
    "mlp": (MLP((9, 8)), 4, 1),
    "mlp of whole and broken vectors": (MLP((64, 33, 16)), 2, 1),
    "mlp without output bias": (MLP((9,), output_bias=False), 2, 1),
    "mlp without biases": (MLP((9,), initial=Normal(0.3)), 2, 1),
    "linear": (MLP(()), 3, 1),
    "levels": (Levels(4, MLP((9,)), 0.7), 3, 1),
    "conv": (ConvTrunk(4, 3, 1, 9, (8,), 1.0), 1, 1),
    "conv scaled": (ConvTrunk(4, 3, 1, 9, (8,), 1.0, 1 / 255), 1, 1),
    "two convs": (ConvTrunk(4, 5, 2, None, (9, 8), 1.0), 1, 1),
    "no conv": (ConvTrunk(4, 5, 0, 6, (8,), 1.0, 0.5), 1, 1),
    "planes": (PlaneMLP(PLANES, 9, (8,), 1.0), 3, 1),
    "wide planes": (PlaneMLP(PLANES, 64, (8, 8), 1.0), 1, 1),
    "recurrent": (RecurrentTrunk(ConvTrunk(4, 3, 1, 9, (8, 6), 1.0)), 1, 5),
    "module": (ModuleNetwork(Seer), 3, 1),
    "module one by one": (ModuleNetwork(Rnn, side_by_side=False), 2, 1),
}


def rows_of(g, rows, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    maps = (rng.random((g, rows, 5, 6, 3)) < 0.3) * rng.integers(1, 4, (g, rows, 5, 6, 3))
    flat = torch.from_numpy(rng.normal(size=(g, rows, 7))).to(dtype)
    mask = torch.ones(g, rows, 4, dtype=torch.bool)
    return {"flat": flat, "map": torch.from_numpy(maps.astype(np.uint8)), "mask": mask}


def drawn(network, g, dtype=torch.float64, seed=0):
    params = network.init([np.random.default_rng(seed)], g, SHAPES, 4, Where(dtype=dtype))
    rng = np.random.default_rng(seed + 1)
    return {name: p + 0.05 * torch.from_numpy(rng.normal(size=p.shape)).to(dtype) for name, p in params.items()}


def like(params, seed=2):
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=p.shape)).to(p.dtype) for name, p in params.items()}


@pytest.mark.parametrize("rows", [0, 1, 40, 2000])
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_equal_automatic_differentiation(name, rows):
    network, g, steps = NETWORKS[name]
    rows = min(rows, 150) if isinstance(network, ModuleNetwork | RecurrentTrunk) else rows
    rows *= steps
    params, obs = drawn(network, g), rows_of(g, rows)
    forward = network.forward(params, obs, steps)
    assert forward.params is params
    assert not forward.out.requires_grad
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    out = network(leaves, obs, steps)
    assert out.shape == (g, rows, 4)
    torch.testing.assert_close(forward.out, out.detach())
    d_out = torch.from_numpy(np.random.default_rng(3).normal(size=out.shape))
    grads = dict(zip(leaves, torch.autograd.grad((out * d_out).sum(), list(leaves.values())), strict=True))
    assert list(grads) == list(params)
    torch.testing.assert_close(forward.vjp(d_out), grads)
    along = like(params)
    # The change along a direction is the derivative of the gradient's product with it by what multiplies the outputs.
    d = d_out.clone().requires_grad_()
    back = torch.autograd.grad((network(leaves, obs, steps) * d).sum(), list(leaves.values()), create_graph=True)
    inner = sum((b * along[n]).sum() for n, b in zip(leaves, back, strict=True))
    torch.testing.assert_close(forward.jvp(along), torch.autograd.grad(inner, d)[0])
    weights = torch.from_numpy(np.random.default_rng(4).normal(size=(g, rows, 3)))
    several = forward.vjps(d_out, weights)
    for j in range(3):
        want = forward.vjp(d_out * weights[..., j : j + 1])
        torch.testing.assert_close({n: several[n][j] for n in params}, want)
    none = forward.vjps(d_out, weights[..., :0])
    assert {n: p.shape for n, p in none.items()} == {n: (0, *p.shape) for n, p in params.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_squared_norms_of_single_rows(name):
    network, g, steps = NETWORKS[name]
    params, obs = drawn(network, g), rows_of(g, 7 * steps)
    forward = network.forward(params, obs, steps)
    d_out = torch.from_numpy(np.random.default_rng(3).normal(size=forward.out.shape))
    got = forward.row_norms(d_out)
    assert got.shape == d_out.shape[:2]
    for row in range(d_out.shape[1]):
        one = torch.zeros_like(d_out)
        one[:, row] = d_out[:, row]
        torch.testing.assert_close(got[:, row], sum((p**2).flatten(1).sum(1) for p in forward.vjp(one).values()))


@pytest.mark.parametrize("name", ["conv", "two convs", "planes"])
def test_a_pass_that_grows_is_that_of_all_rows(name):
    network, g, _ = NETWORKS[name]
    params, obs = drawn(network, g), rows_of(g, 1900)
    whole = network.forward(params, obs)
    cuts = (0, 40, 1200, 1210, 1900)
    growing = network.begin(params, obs, 1900)
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        part = {n: x[:, a:b] for n, x in obs.items()}
        torch.testing.assert_close(growing.add(part), network.forward(params, part).out)
    got = growing.finish()
    short = network.begin(params, obs, 2000)
    short.add(obs)
    torch.testing.assert_close(short.finish().out, whole.out)
    torch.testing.assert_close(network.forward(params, got.seen).out, whole.out)
    torch.testing.assert_close(got.out, whole.out)
    d_out, along = torch.randn_like(whole.out), like(params)
    torch.testing.assert_close(got.jvp(along), whole.jvp(along))
    torch.testing.assert_close(got.vjp(d_out), whole.vjp(d_out))


@pytest.mark.skipif(PURE_PYTHON, reason="rows of a library's product may depend on the others")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(), (64, 32), (33, 17)])
def test_rows_of_a_small_perceptron_do_not_depend_on_the_others(sizes, dtype):
    """So a rollout's pass, step by step, is to the bit the one over all rows that a resumed run makes."""
    network, where = MLP(sizes), Where(dtype=dtype)
    params = network.init([np.random.default_rng(0)], 3, {"flat": (7,)}, 4, where)
    obs = {"flat": torch.randn(3, 40, 7, dtype=dtype)}
    whole, grown = network.forward(params, obs), network.begin(params, obs, 45)
    for rows in (slice(0, 1), slice(1, 8), slice(8, 27), slice(27, 40)):
        assert torch.equal(grown.add({"flat": obs["flat"][:, rows]}), whole.out[:, rows])
    d = torch.randn_like(whole.out)
    for name, g in grown.finish().vjp(d).items():
        assert torch.equal(g, whole.vjp(d)[name])
    with pytest.raises(ValueError, match="float16"):
        whole.vjp(d.half())


@pytest.mark.skipif(PURE_PYTHON, reason="trunks on colours are compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "hidden"), [((7, 9), (8,)), ((5, 4), ()), ((9, 9), (20, 33))])
def test_a_trunk_on_colours_alone(size, hidden, dtype):
    """Its rows do not depend on one another, and its passes are those of automatic differentiation."""
    network = ConvTrunk(6, 3, 1, 17, hidden, scale=1 / 255)
    params = network.init([np.random.default_rng(0)], 1, {"obs": (*size, 3)}, 4, Where(dtype=dtype))
    params = {name: p + 0.1 * torch.randn_like(p) for name, p in params.items()}
    obs = {"obs": torch.randint(0, 256, (1, 430, *size, 3), dtype=torch.uint8)}
    whole, grown = network.forward(params, obs), network.begin(params, obs, 450)
    assert grown.independent
    for rows in (slice(0, 1), slice(1, 8), slice(8, 227), slice(227, 430)):
        assert torch.equal(grown.add({"obs": obs["obs"][:, rows]}), whole.out[:, rows])
    grown = grown.finish()
    assert torch.equal(grown.seen["obs"], obs["obs"])
    assert torch.equal(grown.out, whole.out)
    close = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {}
    out, back = torch.func.vjp(lambda p: network(p, obs), params)
    torch.testing.assert_close(whole.out, out, **close)
    d, along = torch.randn_like(out), {name: torch.randn_like(p) for name, p in params.items()}
    torch.testing.assert_close(whole.vjp(d), back(d)[0], **close)
    torch.testing.assert_close(
        whole.jvp(along), torch.func.jvp(lambda p: network(p, obs), (params,), (along,))[1], **close
    )
    for name, g in grown.vjp(d).items():
        assert torch.equal(g, whole.vjp(d)[name])


@pytest.mark.parametrize("make", [lambda n: ConvTrunk(4, 3, 2, 9, (8,), threads=n),
                                  lambda n: PlaneMLP(PLANES, 9, (8,), threads=n)])  # fmt: skip
def test_results_do_not_depend_on_threads(make):
    obs = rows_of(1, 3000, torch.float32)
    params = drawn(make(1), 1, torch.float32)
    one, two = (make(n).forward(params, obs) for n in (1, 2))
    along = like(params)
    assert torch.equal(one.out, two.out)
    assert torch.equal(one.jvp(along), two.jvp(along))
    d_out = torch.randn_like(one.out)
    a, b = one.vjp(d_out), two.vjp(d_out)
    for name, grad in a.items():
        assert torch.equal(grad, b[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 48])
@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "planes", "module one by one"])
def test_networks_of_a_seed_do_not_depend_on_the_others(name, each, outputs, rows, dtype):
    network = ModuleNetwork(lambda: Seer(outputs), side_by_side=False) if "module" in name else NETWORKS[name][0]

    def draw(seeds):
        return network.init([np.random.default_rng(s) for s in seeds], each, SHAPES, outputs, Where(dtype=dtype))

    many, one, own = draw([1, 2, 3]), draw([2]), slice(each, 2 * each)
    obs = rows_of(3 * each, rows, dtype)
    d_out = torch.from_numpy(np.random.default_rng(3).normal(size=(3 * each, rows, outputs))).to(dtype)
    together = network.forward(many, obs)
    alone = network.forward(one, {n: x[own] for n, x in obs.items()})
    assert torch.equal(together.out[own], alone.out)
    back, mine, along = together.vjp(d_out), alone.vjp(d_out[own]), like(many)
    assert torch.equal(together.jvp(along)[own], alone.jvp({n: p[own] for n, p in along.items()}))
    for n, p in one.items():
        assert torch.equal(many[n][own], p)
        assert torch.equal(back[n][own], mine[n])
    assert len({float(p) for p in next(iter(many.values())).flatten(1)[:, 0]}) == 3 * each


def test_initial_parameters_are_glorot_uniform():
    params = MLP((8,)).init([np.random.default_rng(1)], 3, {"obs": (4,)}, 2, Where())
    assert (params["b0"] == 0).all()
    assert 0.6 < params["w0"].abs().max() <= (6 / 12) ** 0.5
    small = MLP((8,), head_scale=0.1).init([np.random.default_rng(1)], 3, {"obs": (4,)}, 2, Where())
    torch.testing.assert_close(small["w1"], 0.1 * params["w1"])
    conv = ConvTrunk(4, 3, 1, 9, (8,)).init([np.random.default_rng(1)], 1, SHAPES, 4, Where())
    assert 0.28 < conv["c0"].abs().max() <= (6 / 63) ** 0.5
    assert conv["map"].shape == (1, 9, 4 * 30)
    assert 0.05 < conv["f1"].abs().max() <= 0.1 * (6 / 12) ** 0.5
    assert all((p == 0).all() for n, p in conv.items() if n.endswith("_bias"))


def test_planes_are_read_from_a_picture_of_codes():
    network = PlaneMLP(PLANES, 32, (), 1.0)
    params = {n: torch.zeros_like(p) for n, p in drawn(network, 1).items()}
    cell = 2 * 6 + 3
    params["map"][0, cell * 3 + torch.arange(3), torch.arange(3)] = torch.tensor([1.0, 10.0, 100.0]).double()
    params["w0"][0, :3] = 1.0
    obs = rows_of(1, 5)
    obs["map"][:] = 0
    for row, codes in enumerate([(0, 0, 0), (1, 9, 0), (2, 0, 0), (255, 0, 3), (0, 0, 4)]):
        obs["map"][0, row, 2, 3] = torch.tensor(codes, dtype=torch.uint8)
    want = torch.tensor([0, 1, 10, 110, 0]).double()
    torch.testing.assert_close(network.forward(params, obs).out[0, :, 0], want)


@pytest.mark.parametrize(
    "planes", [(), ((0, 0, 1),), ((0, 3, 2),), ((0, 1, 256),), ((-1, 1, 1),), ((0, 1, 2), (0, 2, 3))]
)
def test_planes_that_cannot_be_are_refused(planes):
    with pytest.raises(ValueError, match="PlaneMLP"):
        PlaneMLP(planes)


def test_planes_need_a_channel_and_bytes():
    with pytest.raises(ValueError, match="channels up to 2"):
        PlaneMLP(((3, 1, 1),)).init([np.random.default_rng(0)], 1, SHAPES, 4, Where())
    network = PlaneMLP(PLANES, 9, (8,))
    with pytest.raises(TypeError, match="bytes"):
        network.forward(drawn(network, 1), {n: x.double() for n, x in rows_of(1, 3).items()})


@pytest.mark.parametrize("network", [ConvTrunk(map_width=4), RecurrentTrunk(ConvTrunk(map_width=4))])
def test_a_trunk_is_one_network(network):
    for generators, n in (([0, 1], 1), ([0], 2)):
        with pytest.raises(ValueError, match="Trainer of its own"):
            network.init([np.random.default_rng(s) for s in generators], n, SHAPES, 4, Where())


@pytest.mark.parametrize("shapes", [{"obs": (4,)}, {"a": (3, 3, 1), "b": (3, 3, 1)}])
def test_a_trunk_needs_one_picture(shapes):
    with pytest.raises(ValueError, match="reads one picture"):
        ConvTrunk().init([np.random.default_rng(0)], 1, shapes, 4, Where())


@pytest.mark.parametrize(
    "options", [{"kernel": 2}, {"filters": 0}, {"convolutions": -1}, {"threads": 0}, {"scale": 0.0}]
)
def test_options_of_a_trunk_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ConvTrunk(**options)


def test_the_recurrent_network_is_an_lstm_from_zeros():
    network = RecurrentTrunk(ConvTrunk(4, 3, 1, 9, (9, 8), 1.0))
    params = network.init([np.random.default_rng(0)], 1, SHAPES, 2, DOUBLE)
    obs = rows_of(1, 6 * 3)
    cell = torch.nn.LSTM(8, 8, dtype=torch.float64)
    names = {"weight_ih_l0": "input", "weight_hh_l0": "state", "bias_ih_l0": "input_bias", "bias_hh_l0": "state_bias"}
    cell.load_state_dict({theirs: params[mine][0] for theirs, mine in names.items()})
    trunk = {n: p for n, p in params.items() if n[:3] in ("map", "c0", "c0_") or n[0] == "f"}
    features = ConvTrunk(4, 3, 1, 9, (9,)).forward(trunk, obs).out[0].relu().view(6, 3, 8)
    want = cell(features)[0].flatten(0, 1) @ params["head"][0].T + params["head_bias"]
    torch.testing.assert_close(network.forward(params, obs, 6).out[0], want.detach())
    assert (params["input_bias"][0, 8:16] == 1).all()


def test_a_network_with_a_memory_is_no_policy():
    with pytest.raises(ValueError, match="critic"):
        PolicyGradientAgents(network=RecurrentTrunk(ConvTrunk(map_width=4)), share_parameters=True)


# ---------------------------------------------------------------------- modules


def test_modules_are_drawn_without_touching_torchs_random_state():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    params = ModuleNetwork(Seer).init([np.random.default_rng(0)], 2, SHAPES, 4, Where())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(params["dense.weight"][0], params["dense.weight"][1])
    again = ModuleNetwork(Seer).init([np.random.default_rng(0)], 2, SHAPES, 4, Where())
    torch.testing.assert_close(again, params, rtol=0, atol=0)


def test_a_module_is_given_one_tensor_where_there_is_one():
    network = ModuleNetwork(lambda: nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4)))
    params = network.init([np.random.default_rng(0)], 2, {"flat": (7,), "mask": (4,)}, 4, DOUBLE)
    obs = {name: x for name, x in rows_of(2, 3).items() if name != "map"}
    x = torch.tanh(torch.einsum("grx,gyx->gry", obs["flat"], params["0.weight"]) + params["0.bias"][:, None])
    want = torch.einsum("grx,gyx->gry", x, params["2.weight"]) + params["2.bias"][:, None]
    torch.testing.assert_close(network.forward(params, obs).out, want)


def test_lazy_layers_take_shape():
    network = ModuleNetwork(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)))
    params = network.init([np.random.default_rng(0)], 1, {"map": (5, 6, 3)}, 4, Where())
    assert params["1.weight"].shape == (1, 4, 90)


class Noisy(nn.Module):
    """A module with a buffer drawn at random."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(7, 4)
        self.register_buffer("directions", torch.randn(7))

    def forward(self, x):
        return self.dense(x * self.directions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(7, 3), r"must give \[R, 4\]"),
        (lambda: nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4)), "keeps statistics"),
        (lambda: nn.Sequential(nn.Linear(7, 4), nn.Dropout(0.1)), "acts at random"),
        (lambda: 3, "must give a torch module"),
        (lambda: nn.AdaptiveAvgPool1d(4), "no parameters"),
        (Noisy, "buffers must be constant"),
    ],
)
def test_modules_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        ModuleNetwork(make).init([np.random.default_rng(0)], 2, {"flat": (7,)}, 4, Where())


# ---------------------------------------------------------------------- pieces


def test_sigmoid_keeps_a_gradient_where_it_saturates():
    x = torch.tensor([-90.0, -30.0, 0.0, 3.0, 30.0, 60.0])
    value = sigmoid(x)
    torch.testing.assert_close(value, torch.sigmoid(x))
    grad = sigmoid_grad(x, value)
    want = torch.exp(-x[1:].abs()) / (1 + torch.exp(-x[1:].abs())) ** 2
    torch.testing.assert_close(grad[1:], want)
    assert (grad[1:] > 0).all()


@pytest.mark.parametrize(("k", "filters"), [(1, 3), (3, 6), (5, 6), (5, 17), (3, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", ["bytes", "numbers", "colours"])
@pytest.mark.parametrize("pictures", [0, 11])
def test_convolutions_by_entries_that_are_not_zero_and_of_colours_by_bands(k, filters, dtype, given, pictures):
    if given == "colours" and PURE_PYTHON:
        pytest.skip("bands are compiled")
    way = bands if given == "colours" else sparse_conv
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-9}
    rng = np.random.default_rng(k)
    maps = torch.from_numpy((rng.random((pictures, 5, 6, 3)) < 0.3) * rng.integers(1, 256, (pictures, 5, 6, 3)))
    maps = maps.to(torch.uint8) if given != "numbers" else maps.to(dtype) / 7 - 20 * (maps > 99)
    weight = torch.from_numpy(rng.normal(size=(filters, 3, k, k))).to(dtype).requires_grad_()
    bias = torch.from_numpy(rng.normal(size=filters)).to(dtype)
    image = maps.permute(0, 3, 1, 2).to(dtype).requires_grad_()
    want = torch.nn.functional.conv2d(image, weight, bias, padding=k // 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(way.convolve(maps, weight, bias), want.detach(), **close)
    plain = (want - bias).detach()
    torch.testing.assert_close(way.convolve(maps, weight), plain, **close)
    d_out = torch.from_numpy(rng.normal(size=want.shape) * (rng.random(want.shape) < 0.5)).to(dtype)
    d_image, d_weight = torch.autograd.grad((want * d_out).sum(), [image, weight])
    torch.testing.assert_close(way.kernel_gradient(maps, d_out, k), d_weight, **close)
    if way is sparse_conv:
        torch.testing.assert_close(way.input_gradient(d_out, weight), d_image.permute(0, 2, 3, 1), **close)


@pytest.mark.skipif(PURE_PYTHON, reason="passes are torch's")
def test_scratch_is_as_large_as_the_largest_pass_needs():
    params = MLP((5,)).init([np.random.default_rng(1)], 1, {"x": (3,)}, 2, Where())
    x, d = torch.rand(1, 3000, 3), torch.rand(1, 3000, 2)
    whole = MLP((5,)).forward(params, {"x": x}).vjp(d)
    rooms = {key: len(room) for key, room in passes._rooms.items()}
    for rows in (7, 500, 2999, 3000):
        MLP((5,)).forward(params, {"x": x[:, :rows].contiguous()}).vjp(d[:, :rows])
    assert {key: len(room) for key, room in passes._rooms.items()} == rooms
    for name, p in MLP((5,)).forward(params, {"x": x}).vjp(d).items():
        assert p.equal(whole[name])


def test_networks_drawn_later_have_the_same_buffers():
    """Else they would change what networks drawn before compute."""
    network = ModuleNetwork(Noisy)
    network.init([np.random.default_rng(1)], 1, {"x": (7,)}, 4, Where())
    with pytest.raises(ValueError, match="buffers must be constant"):
        network.init([np.random.default_rng(2)], 1, {"x": (7,)}, 4, Where())
