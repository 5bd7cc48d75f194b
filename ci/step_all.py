"""What `ci/wheels` runs in an environment that holds the wheel alone."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import fastenvs

assert importlib.util.find_spec("torch") is None, "torch is here"
assert not os.access(os.path.dirname(fastenvs.__file__), os.W_OK), "site-packages can be written"
assert fastenvs.__file__.startswith(sys.prefix), fastenvs.__file__
assert importlib.metadata.version("fastenvs") == fastenvs.__version__
assert "](docs/" not in importlib.metadata.metadata("fastenvs").get_payload(), "links into the repository"

subprocess.run([sys.executable, "-m", "fastenvs.warmup"], check=True, stderr=subprocess.DEVNULL)
again = subprocess.run([sys.executable, "-m", "fastenvs.warmup"], check=True, capture_output=True, text=True)
assert "compiling" not in again.stderr, again.stderr

for name in fastenvs.games():
    env = fastenvs.make(name, 64, seed=0)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(120):
        obs, rewards, terminated, truncated, info = env.step(rng.integers(0, env.n_actions, (64, env.n_agents)))
    assert np.isfinite(rewards).all(), name

learner = subprocess.run(
    [sys.executable, "-m", "metagrad.experiment.cli", "train", "gtb"], capture_output=True, text=True
)
assert learner.returncode == 2, learner
assert "pip install 'fastenvs[metagrad]'" in learner.stderr, learner.stderr
rights = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)
assert rights is None or int(rights[1], 16) == 0, "with rights of root"
user = f"user {os.geteuid()} without rights of root"
print(f"stepped {', '.join(fastenvs.games())}: Python {platform.python_version()}, numpy {np.__version__}, {user}")
