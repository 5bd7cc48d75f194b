"""Build of the Cython extensions, and what of the distributions `pyproject.toml` cannot say.

``FASTENVS_ABI3=1`` builds them for Python 3.11 and all that follow, by the stable interface. A call then takes about a
tenth of a microsecond longer for each array, so what is built for one Python alone stays the default. For tests:
``FASTENVS_BOUNDSCHECK=1`` builds them with bounds and overflow checks, ``FASTENVS_SANITIZE=1`` with the compiler's
address and undefined-behaviour sanitizers.
"""

import os
import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.sdist import sdist

#: What a source distribution holds beside the packages, so that all tests run from it.
BESIDE = (".ci", "benchmarks", "ci", "docs", "fastenvs", "tests")


def wanted(name: str) -> bool:
    """Whether a variable asks for something."""
    return os.environ.get(name, "0") not in ("", "0")


checked, sanitized = wanted("FASTENVS_BOUNDSCHECK"), wanted("FASTENVS_SANITIZE")
sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"] if sanitized else []
stable = wanted("FASTENVS_ABI3")

extensions = [
    Extension(
        f"fastenvs.{name}",
        [f"fastenvs/{name}.pyx"],
        # Coins must not depend on whether the compiler fuses a multiply with an add.
        extra_compile_args=["-O3", "-ffp-contract=off", *sanitizers] if os.name != "nt" else [],
        extra_link_args=sanitizers[:1],
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if stable else [],
        py_limited_api=stable,
    )
    for name in ("_market", "_tax")
]


class Complete(sdist):
    """A source distribution with tests, documentation and scripts."""

    def make_release_tree(self, base_dir, files):
        """Copy the files, without what was built or left by a run."""
        beside = (p for folder in BESIDE for p in Path(folder).rglob("*") if p.is_file())
        built = {".so", ".c", ".pyc", ".nbi", ".nbc"}
        kept = {str(p) for p in beside if p.suffix not in built and "__pycache__" not in p.parts}
        super().make_release_tree(base_dir, sorted(kept | {f for f in files if Path(f).suffix not in built}))


def description() -> str:
    """README for a page that has no repository beside it: links into the repository become text, pictures go."""
    text = re.sub(r"<!-- repository -->.*?<!-- end of repository -->\n*", "", Path("README.md").read_text(), flags=re.S)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:)[^)]+\)", r"\1", text)


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    cmdclass={"sdist": Complete},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable else {},
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
    ),
)
