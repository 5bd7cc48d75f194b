"""The learners against the references in ``tests/frozen``: every method of every game, in float64."""

import numpy as np
import pytest
from frozen import record, reference
from frozen.cases import CASES

BOUND = 1e-9
#: What the seeds' environment, or the rates in force, carry along; not all of it moves.
CARRIED = ("carried/", "judge/target/")


def test_every_case_has_its_reference():
    assert reference.names() == sorted(CASES)


@pytest.mark.parametrize("name", reference.names())
def test_learner_does_what_it_did(name):
    got, _ = record.run(CASES[name], name)
    want = reference.read(name)
    assert (got.config, got.adopted, got.shapes) == (want.config, want.adopted, want.shapes)
    errors = want.errors(got)
    assert not {n: e for n, e in errors.items() if e > (0 if n.startswith("initial/") else BOUND)}


def test_references_say_something():
    """All networks moved, the games gave rewards, and no two cases ended alike: every option made a difference."""
    ends = {}
    for name in reference.names():
        ref = reference.read(name)
        for n, x in ref.initial.items():
            if not n.startswith(CARRIED):
                assert reference.error(ref.final[n], reference.stored(x)) > 1e-4, (name, n)
        assert "rewards" in ref.batches or "rewards_sketch" in ref.batches, name
        ends[name] = np.concatenate(list(ref.final.values())).round(10).tobytes()
    assert len(set(ends.values())) == len(ends)


def test_a_wrong_number_is_noticed():
    """One entry among thousands, also where a sketch is all that is kept."""
    rng = np.random.default_rng(0)
    for shape in ((3, 4), (50, 70)):
        x = rng.normal(size=shape)
        moved = x.copy()
        moved[2, 3] *= 1 + 1e-5
        assert reference.error(reference.stored(moved), reference.stored(x)) > BOUND
    ref = reference.read("gtb/metagrad_trace")
    other = reference.read("gtb/metagrad_trace")
    assert set(ref.errors(other).values()) == {0.0}
    other.batches["actions"][2, 0, 3, 1, 2] += 1
    other.final["eta/logits"] *= 1 + 1e-8
    del other.batches["rates_sketch"]
    found = {n for n, e in ref.errors(other).items() if e > BOUND}
    assert found == {"batches/actions", "final/eta/logits", "batches/rates_sketch"}
