"""The structure: which modules may import which, and how large modules, classes, functions and folders may be."""

import ast
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "metagrad"
MODULE, CLASS, FUNCTION, FOLDER = 400, 150, 50, 10
#: What is larger than it should be, with its present size. Entries may only shrink, and go when they are small enough.
LARGER: dict[str, int] = {}


def test_layers(capfd, monkeypatch):
    """The contracts under ``tool.importlinter`` in ``pyproject.toml``."""
    monkeypatch.chdir(ROOT)
    status = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    out = capfd.readouterr().out
    assert status == 0, out
    assert "3 kept, 0 broken" in out


def test_the_root_imports_nothing_when_it_is_imported():
    """Layers do not hold the package itself; it reaches all of them, but only by name."""
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    imported = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [getattr(n, "module", None) or n.names[0].name for n in imported]
    assert not [name for name in names if name.startswith(("metagrad", "fastenvs"))]


def sizes(path):
    """Module, classes and functions of a file with their lines and the most that they should have.

    Functions and classes inside a function count as its lines alone.
    """
    text = path.read_text()
    name = str(path.relative_to(PACKAGE))
    yield name, len(text.splitlines()), MODULE
    yield from _inside(ast.parse(text), f"{name}:")


def _inside(node, name):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield f"{name}{child.name}", _lines(child), CLASS
            yield from _inside(child, f"{name}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}{child.name}", _lines(child), FUNCTION
        else:
            yield from _inside(child, name)


def _lines(node):
    return node.end_lineno - min([node.lineno, *(d.lineno for d in node.decorator_list)]) + 1


def folders():
    """Folders of the package with their modules, ``__init__`` aside."""
    for folder in sorted({p.parent for p in PACKAGE.rglob("*.py")}):
        modules = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        yield f"{folder.relative_to(PACKAGE)}/", len(modules), FOLDER


def measured():
    """Everything that has a size."""
    yield from folders()
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from sizes(path)


def test_nothing_is_too_large():
    larger = {name: size for name, size, limit in measured() if size > limit}
    wrong = [f"{name}: {size}, allowed {LARGER.get(name, 'less')}" for name, size in larger.items()
             if size > LARGER.get(name, 0)]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_the_list_of_what_is_larger_is_up_to_date():
    found = {name: (size, limit) for name, size, limit in measured()}
    stale = [f"{name}: {found.get(name, 'gone')}, listed {size}" for name, size in LARGER.items()
             if name not in found or found[name][0] != size or size <= found[name][1]]  # fmt: skip
    assert not stale, "\n".join(stale)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class A:\n    @property\n    def f(self):\n        def g():\n            pass\n        return g\n",
         [("A", 6, CLASS), ("A.f", 5, FUNCTION)]),
        ("if True:\n    def f():\n        pass\n", [("f", 2, FUNCTION)]),
    ],
)  # fmt: skip
def test_sizes_are_counted(text, expected):
    assert list(_inside(ast.parse(text), "")) == expected
