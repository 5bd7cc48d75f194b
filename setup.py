"""Build of the Cython extensions.

``FASTENVS_BOUNDSCHECK=1`` builds them with bounds and overflow checks, for tests.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

checked = os.environ.get("FASTENVS_BOUNDSCHECK", "0") not in ("", "0")

extensions = [
    Extension(
        f"fastenvs.{name}",
        [f"fastenvs/{name}.pyx"],
        # Coins must not depend on whether the compiler fuses a multiply with an add.
        extra_compile_args=["-O3", "-ffp-contract=off"] if os.name != "nt" else [],
    )
    for name in ("_market", "_tax")
]

setup(
    ext_modules=cythonize(
        extensions,
        # Apart, so that neither build takes the other's C file for its own.
        build_dir="build/checked/cython" if checked else "build/cython",
        compiler_directives={
            "language_level": "3",
            "boundscheck": checked,
            "wraparound": False,
            "initializedcheck": checked,
            "overflowcheck": checked,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    )
)
