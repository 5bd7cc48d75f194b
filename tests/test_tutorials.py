"""The notebooks of the documentation: they run, quickly, and hold light outputs of having run.

``python tests/test_tutorials.py [NAME ...]`` runs them and stores their outputs anew.
"""

import re
import resource
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
#: Most seconds of processor time that a notebook may need, half of the two minutes of a slow core, and most bytes.
SECONDS, SIZE = 60, 400_000


def run(path, folder):
    """The notebook with fresh outputs, run in a folder of its own beside the results that the repository keeps."""
    notebook = nbformat.read(path, 4)
    (folder / "tutorials").mkdir()
    (folder / "results").symlink_to(DOCS / "results")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder / "tutorials"}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def kinds(notebook):
    """Of every cell the kinds of its outputs."""
    return [[output.output_type for output in cell.get("outputs", [])] for cell in notebook.cells]


def used():
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of_children.ru_utime + of_children.ru_stime


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path):
    before = used()
    notebook = run(path, tmp_path)
    assert used() - before < SECONDS
    assert kinds(notebook) == kinds(nbformat.read(path, 4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_light_and_clean(path):
    assert path.stat().st_size < SIZE
    assert not re.search(r"/(tmp|home|root)/", path.read_text("utf-8"))
    for cell in nbformat.read(path, 4).cells:
        assert cell.metadata == {}
        links = re.findall(r"\]\(([^)\s]+)\)", cell.source) if cell.cell_type == "markdown" else []
        for link in links:
            assert link.startswith("https://") or (path.parent / link.partition("#")[0]).exists(), link


if __name__ == "__main__":
    for path in [p for p in NOTEBOOKS if p.stem in sys.argv[1:] or not sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as place:
            nbformat.write(run(path, Path(place)), path)
