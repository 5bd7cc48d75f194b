"""Moves in wide blocks, against slices of NumPy."""

import numpy as np
import pytest

from fastenvs import blocks
from fastenvs.jit import kernel

LENGTHS = [0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 99, 127, 128, 129, 200]


@kernel
def copy(out, to, source, start, n):
    blocks.copy_run(out, to, source, start, n)


@kernel
def clear(out, to, n):
    blocks.clear_run(out, to, n)
    blocks.expect_run(out, to, n)


@kernel
def floats(out, to, source, start, n):
    blocks.float_run(out, to, source, start, n)


@kernel
def scaled(out, to, source, start, n, scale):
    blocks.scaled_run(out, to, source, start, n, scale)


@kernel
def split(out, to, rest, whole, first, part, second, n):
    blocks.split_run(out, to, rest, whole, first, part, second, n)


@kernel
def rows(out, to, source, start, stride, n_rows, mask, first, n):
    blocks.masked_rows(out, to, source, start, stride, n_rows, mask, first, n)


@kernel
def word(cells, start):
    return blocks.word_at(cells, start)


@pytest.mark.parametrize("n", LENGTHS)
def test_runs_touch_what_they_should_and_nothing_else(n):
    rng = np.random.default_rng(n)
    source, before = rng.integers(1, 256, 300, np.uint8), rng.integers(1, 256, 400, np.uint8)
    out, want = before.copy(), before.copy()
    copy(out, 7, source, 5, n)
    want[7 : 7 + n] = source[5 : 5 + n]
    np.testing.assert_array_equal(out, want)
    clear(out, 9, n)
    want[9 : 9 + n] = 0
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_numbers_become_floats(dtype, n):
    rng = np.random.default_rng(n)
    source = (rng.normal(0, 50, 300) if dtype is np.float64 else rng.integers(0, 200, 300)).astype(dtype)
    out = rng.random(400, np.float32)
    want = out.copy()
    floats(out, 3, source, 2, n)
    want[3 : 3 + n] = source[2 : 2 + n]
    np.testing.assert_array_equal(out, want)
    if dtype is np.float64:
        scaled(out, 1, source, 4, n, 0.01)
        want[1 : 1 + n] = source[4 : 4 + n] * 0.01
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("n", LENGTHS)
def test_own_and_others(n):
    rng = np.random.default_rng(n)
    part, out = rng.integers(0, 1000, 300).astype(np.uint16), rng.random(600, np.float32)
    whole, want = rng.integers(1000, 2000, 300).astype(np.float32), out.copy()
    split(out, 301, 2, whole, 3, part, 4, n)
    want[301 : 301 + n] = part[4 : 4 + n]
    want[2 : 2 + n] = whole[3 : 3 + n] - part[4 : 4 + n]
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("n_rows", [0, 1, 3, 11])
def test_rows_under_a_mask(n_rows, n):
    rng = np.random.default_rng(n)
    source, mask = rng.integers(0, 256, 5000, np.uint8), rng.choice(np.array([0, 255], np.uint8), 300)
    out = rng.integers(0, 256, 3000, np.uint8)
    want = out.copy()
    rows(out, 5, source, 6, 211, n_rows, mask, 8, n)
    for row in range(n_rows):
        start = 6 + row * 211
        want[5 + row * n : 5 + (row + 1) * n] = source[start : start + n] & mask[8 : 8 + n]
    np.testing.assert_array_equal(out, want)


def test_a_word_begins_with_its_lowest_byte():
    cells = np.arange(20, dtype=np.uint8)
    assert int(word(cells, 3)) == int.from_bytes(bytes(range(3, 11)), "little")
