"""What ``compare.py`` measures of a tree of this repository, through the Python interface that the tree has.

It runs as a process of its own for each tree, whose packages are the ones on ``PYTHONPATH``.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path

from blocks import Block, serve

#: Simulators: game, options, copies, and steps of an episode, or of a tenth of one of a thousand.
STEPS = {
    **{f"gtb-step-{n}": ("gtb", {}, n, 100) for n in (1, 256, 2048)},
    **{f"cleanup-step-{n}": ("cleanup", {}, n, 50) for n in (1, 1024)},
    "cleanup-large-step-1024": ("cleanup", {"preset": "large"}, 1024, 100),
    **{f"er-step-{n}": ("escape_room", {"n_agents": 5, "min_at_lever": 2}, n, 5) for n in (1, 1024)},
}
#: Learners: game, preset, method, seeds, and iterations in a block.
LEARNERS = {
    "er-learner": ("escape-room", "er_5_2", "metagrad", 8, 20),
    "cleanup-learner": ("cleanup", "cleanup", "metagrad", 1, 2),
    "gtb-learner": ("gtb", "gtb", "metagrad", 1, 1),
    "gtb-learner-free-market": ("gtb", "gtb", "free-market", 1, 1),
}
PROCESSES = ("help", "launch")
CASES = (*STEPS, *LEARNERS, *PROCESSES)

LAUNCH = """
import os, sys
from {module} import {entry} as main
from {where} import {learner} as Learner
iterate = Learner.iterate
Learner.iterate = lambda *args, **options: (iterate(*args, **options), os._exit({reached}))
sys.argv = ["metagrad", "train", "escape-room", "--out", {out!r}]
main()
"""
REACHED = 17


def steps(game, options, copies, length):
    """Steps of random actions, in multiples of ``length``."""
    import numpy as np

    import fastenvs

    env = fastenvs.make(game, copies, seed=0, num_threads=1, **options)
    draw = np.random.default_rng(0)
    actions = [draw.integers(0, env.n_actions, (copies, env.n_agents)) for _ in range(16)]
    calls = iter(range(10**12))
    env.reset()
    return Block(lambda: env.step(actions[next(calls) % 16]), length, 0.2), {"unit": "env steps", "units": copies}


def home():
    """The tree."""
    return Path(os.environ["PYTHONPATH"])


def has_trainer():
    """Whether the tree trains with ``Trainer``, or with the ``Learner`` of before."""
    return (home() / "metagrad" / "trainer.py").exists()


def learner(game, preset, method, seeds, iterations):
    """Iterations from the start of training on, simulator included."""
    import torch

    torch.set_num_threads(1)
    make = _trainer if has_trainer() else _old_learner
    iterate, k = make(game, preset, method, tuple(range(seeds)))
    return Block(iterate, iterations, 0), {"unit": "episodes", "units": seeds * k}


def _trainer(game, preset, method, seeds):
    from metagrad.experiment.registry import experiment
    from metagrad.trainer import Trainer

    e = experiment(game, preset, method)
    run = {"k": e.run.k, "agent_batches": e.run.agent_batches, "pipeline": e.run.pipeline}
    return Trainer(e.task, e.agents, e.designer, seeds=seeds, **run).iterate, e.run.k


def _old_learner(game, preset, method, seeds):
    from metagrad.games import KITS

    kit = KITS[game]
    config = replace(kit.presets[preset](), method=method, seeds=seeds)
    made = kit.learner(config)
    return (made.iterate if game == "escape-room" else made.workforces[0].iterate), config.k


def process(name):
    """A whole process: ``metagrad --help``, or ``metagrad train escape-room`` until its first iteration is done."""
    module, entry = tomllib.loads((home() / "pyproject.toml").read_text())["project"]["scripts"]["metagrad"].split(":")

    def call():
        with tempfile.TemporaryDirectory() as folder:
            if name == "help":
                code, expected = f"import sys; from {module} import {entry} as main; sys.exit(main())", 0
            else:
                where, kind = ("metagrad.trainer", "Trainer") if has_trainer() else ("metagrad.train", "Learner")
                code, expected = LAUNCH, REACHED
                code = code.format(
                    module=module, entry=entry, where=where, learner=kind, reached=REACHED, out=f"{folder}/run"
                )
            command = [sys.executable, "-P", "-c", code, "--help"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != expected:
            raise RuntimeError(f"it ended with {done.returncode}: {done.stderr[-500:]}")

    return Block(call, 1, 0), {"unit": "processes", "units": 1}


def prepare(case):
    """The block of one of ``CASES``; an installed package must not have stood in for a module of the tree's."""
    made = steps(*STEPS[case]) if case in STEPS else learner(*LEARNERS[case]) if case in LEARNERS else process(case)
    for name, module in sys.modules.items():
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in ("fastenvs", "metagrad") and file and home() not in Path(file).parents:
            raise RuntimeError(f"{name} is {file}, which is not of {home()}")
    return made


if __name__ == "__main__":
    serve(prepare)
