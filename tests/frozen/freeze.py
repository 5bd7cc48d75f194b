"""Writes the references anew, all or those that are named (``game/case``).

``python tests/frozen/freeze.py [NAME ...] [--sensitivity]``

``--sensitivity`` writes nothing; it says how far a relative change of 1e-14 in the initial parameters, and the other
way to compute the meta-gradient, carry the parameters away: what rounding alone may do.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from frozen import record, reference
from frozen.cases import CASES, DEFAULTS
from metagrad.legacy.config import to_dict


def freeze(name: str) -> None:
    ref, draws = record.run(CASES[name], name)
    path = reference.FOLDER / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    game = to_dict(DEFAULTS[path.parent.name])
    (path.parent / "defaults.json").write_text(json.dumps(game, indent=1) + "\n")
    reference.write(name, ref, draws)
    errors = reference.read(name).errors(ref)
    worst = max(errors, key=errors.get)
    assert errors[worst] == 0, f"{name}: {worst} was not read as it was written"
    print(f"{name:50} {path.stat().st_size:7,} bytes")


def sensitivity(name: str) -> None:
    config = CASES[name]
    ref, _ = record.run(config, name)
    generator = torch.Generator().manual_seed(1)

    def disturb(t: torch.Tensor) -> None:
        t *= 1 + 1e-14 * torch.randn(t.shape, generator=generator, dtype=t.dtype)

    others = {"disturbed": record.run(config, name, disturb)[0]}
    if getattr(getattr(config, "designer", None), "mode", "") == "forward" and "metagrad" in config.method:
        try:
            other = dataclasses.replace(config, designer=dataclasses.replace(config.designer, mode="unrolled"))
            others["unrolled"] = record.run(other, name)[0]
        except ValueError:
            pass
    found = []
    for label, other in others.items():
        errors = {n: e for n, e in ref.errors(other).items() if not n.startswith("initial/")}
        worst = max(errors, key=errors.get)
        found.append(f"{label} {errors[worst]:.0e} ({worst})")
    moved = {}
    for n in ref.shapes:
        if n in ref.initial and not n.startswith("carried/"):
            moved[n] = reference.error(ref.final[n], reference.stored(ref.initial[n]))
    least = min(moved, key=moved.get)
    print(f"{name:50} {'; '.join(found)}; least moved {moved[least]:.0e} ({least})", flush=True)


if __name__ == "__main__":
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or list(CASES)
    for name in names:
        (sensitivity if "--sensitivity" in sys.argv else freeze)(name)
    if len(names) == len(CASES) and "--sensitivity" not in sys.argv:
        for name in set(reference.names()) - set(names):
            print(f"{name} is no case any more")
    print(f"{sum(p.stat().st_size for p in reference.FOLDER.glob('*/*.npz')):,} bytes in all")
