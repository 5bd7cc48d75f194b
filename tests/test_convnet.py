"""The passes by hand of networks on maps, against automatic differentiation."""

import numpy as np
import pytest
import torch

from metagrad.legacy.convnet import Evaluation, apply_recurrent, apply_trunk, init_recurrent, init_trunk
from metagrad.legacy.sparseconv import convolve, input_gradient, kernel_gradient


def case(rows=150, dtype=torch.float64):
    rng = np.random.default_rng(0)
    params = init_trunk(rng, 3, 30, 7, 4, (9, 8), 5, "cpu", dtype, 1.0)
    params = {name: p + 0.05 * torch.from_numpy(rng.normal(size=p.shape)).to(dtype) for name, p in params.items()}
    maps = torch.from_numpy(
        ((rng.random((rows, 5, 6, 3)) < 0.3) * rng.integers(1, 4, (rows, 5, 6, 3))).astype(np.uint8)
    )
    flat = torch.from_numpy(rng.normal(size=(rows, 7))).to(dtype)
    tangent = {name: torch.from_numpy(rng.normal(size=p.shape)).to(dtype) for name, p in params.items()}
    return params, maps, flat, tangent, torch.from_numpy(rng.normal(size=(rows, 5))).to(dtype)


@pytest.mark.parametrize("rows", [1, 40, 150, 2000])
def test_passes_equal_automatic_differentiation(rows):
    params, maps, flat, tangent, d_out = case(rows)
    evaluation = Evaluation(params, maps, flat)
    leaves = {name: p.requires_grad_() for name, p in params.items()}
    out = apply_trunk(leaves, maps, flat)
    torch.testing.assert_close(evaluation.out, out.detach())
    grads = torch.autograd.grad((out * d_out).sum(), list(leaves.values()))
    got = evaluation.vjp(d_out)
    for name, want in zip(leaves, grads, strict=True):
        torch.testing.assert_close(got[name], want)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(rows, 3)))
    several = evaluation.weighted_vjps(d_out, weights)
    for j, weight in enumerate(weights.T):
        for name, want in evaluation.vjp(d_out * weight[:, None]).items():
            torch.testing.assert_close(several[name][j], want)
    none = evaluation.weighted_vjps(d_out, weights[:, :0])
    assert {name: g.shape for name, g in none.items()} == {name: (0, *p.shape) for name, p in params.items()}
    plain = {name: p.detach() for name, p in params.items()}
    moved = torch.func.jvp(lambda p: apply_trunk(p, maps, flat), (plain,), (tangent,))[1]
    torch.testing.assert_close(evaluation.jvp(tangent), moved)


def test_results_do_not_depend_on_threads():
    params, maps, flat, tangent, d_out = case(3000, torch.float32)
    one, two = (Evaluation(params, maps, flat, threads) for threads in (1, 2))
    assert torch.equal(one.out, two.out)
    assert torch.equal(one.jvp(tangent), two.jvp(tangent))
    a, b = one.vjp(d_out), two.vjp(d_out)
    for name, grad in a.items():
        assert torch.equal(grad, b[name]), name


def test_the_recurrent_network_is_an_lstm_from_zeros():
    rng = np.random.default_rng(0)
    params = init_recurrent(rng, 3, 30, 7, 4, (9, 8), 2, "cpu", torch.float64)
    _, maps, flat, _, _ = case(6 * 3)
    got = apply_recurrent(params, maps, flat, 3)
    cell = torch.nn.LSTM(8, 8, dtype=torch.float64)
    names = {"weight_ih_l0": "input", "weight_hh_l0": "state", "bias_ih_l0": "input_bias", "bias_hh_l0": "state_bias"}
    cell.load_state_dict({theirs: params[mine] for theirs, mine in names.items()})
    features = apply_trunk(params, maps, flat).relu().view(6, 3, 8)
    want = cell(features)[0].flatten(0, 1) @ params["head"].T + params["head_bias"]
    torch.testing.assert_close(got, want)
    assert (params["input_bias"][8:16] == 1).all()


def test_joined_passes_are_those_of_all_rows():
    params, maps, flat, tangent, d_out = case(130)
    whole = Evaluation(params, maps, flat)
    parts = [Evaluation(params, maps[rows], flat[rows]) for rows in (slice(0, 40), slice(40, 120), slice(120, 130))]
    got = Evaluation.joined(parts, maps, flat)
    torch.testing.assert_close(got.out, whole.out)
    torch.testing.assert_close(got.jvp(tangent), whole.jvp(tangent))
    torch.testing.assert_close(got.vjp(d_out), whole.vjp(d_out))


@pytest.mark.parametrize(("k", "filters"), [(3, 6), (5, 6), (5, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", ["bytes", "numbers"])
def test_convolution_by_the_entries_that_are_not_zero(k, filters, dtype, given):
    close = {"rtol": 1e-4, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-9}
    rng = np.random.default_rng(k)
    maps = torch.from_numpy((rng.random((4, 5, 6, 3)) < 0.3) * rng.integers(1, 256, (4, 5, 6, 3)))
    maps = maps.to(torch.uint8) if given == "bytes" else maps.to(dtype) / 7 - 20 * (maps > 99)
    weight = torch.from_numpy(rng.normal(size=(filters, 3, k, k))).to(dtype).requires_grad_()
    bias = torch.from_numpy(rng.normal(size=filters)).to(dtype)
    image = maps.permute(0, 3, 1, 2).to(dtype).requires_grad_()
    want = torch.nn.functional.conv2d(image, weight, bias, padding=k // 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(convolve(maps, weight, bias), want.detach(), **close)
    plain = (want - bias).detach()
    torch.testing.assert_close(convolve(maps, weight), plain, **close)
    d_out = torch.from_numpy(rng.normal(size=want.shape) * (rng.random(want.shape) < 0.5)).to(dtype)
    d_image, d_weight = torch.autograd.grad((want * d_out).sum(), [image, weight])
    torch.testing.assert_close(kernel_gradient(maps, d_out, k), d_weight, **close)
    torch.testing.assert_close(input_gradient(d_out, weight), d_image.permute(0, 2, 3, 1), **close)
