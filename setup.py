"""Build of the Cython extensions.

For tests: ``FASTENVS_BOUNDSCHECK=1`` builds them with bounds and overflow checks, ``FASTENVS_SANITIZE=1`` with the
compiler's address and undefined-behaviour sanitizers.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup


def wanted(name: str) -> bool:
    """Whether a variable asks for something."""
    return os.environ.get(name, "0") not in ("", "0")


checked, sanitized = wanted("FASTENVS_BOUNDSCHECK"), wanted("FASTENVS_SANITIZE")
sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"] if sanitized else []

extensions = [
    Extension(
        f"fastenvs.{name}",
        [f"fastenvs/{name}.pyx"],
        # Coins must not depend on whether the compiler fuses a multiply with an add.
        extra_compile_args=["-O3", "-ffp-contract=off", *sanitizers] if os.name != "nt" else [],
        extra_link_args=sanitizers[:1],
    )
    for name in ("_market", "_tax")
]

setup(
    ext_modules=cythonize(
        extensions,
        # Apart, so that no build takes another's C file for its own.
        build_dir=f"build/{'checked/' if checked else 'sanitized/' if sanitized else ''}cython",
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
