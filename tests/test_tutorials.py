"""The notebooks of the documentation: they run, quickly, and hold light outputs of having run."""

import json
import re
import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
#: Most seconds of processor time that a notebook may need, half of the two minutes of a slow core, and most bytes.
SECONDS, SIZE = 60, 400_000


def used():
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of_children.ru_utime + of_children.ru_stime


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path):
    """In a folder of its own, beside the results that the repository keeps."""
    notebook, before = nbformat.read(path, 4), used()
    (tmp_path / "tutorials").mkdir()
    (tmp_path / "results").symlink_to(DOCS / "results")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path / "tutorials"}}).execute()
    assert used() - before < SECONDS
    kinds = [
        [output.output_type for output in cell.outputs if output.get("name") != "stderr"] for cell in code(notebook)
    ]
    stored = [[output.output_type for output in cell.outputs] for cell in code(nbformat.read(path, 4))]
    assert stored == kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_light_and_clean(path):
    assert path.stat().st_size < SIZE
    text = path.read_text("utf-8")
    assert "/tmp" not in text
    assert "/home" not in text
    for cell in json.loads(text)["cells"]:
        assert cell["metadata"] == {}
        for target in (
            re.findall(r"\]\(([^)\s]+)\)", "".join(cell["source"])) if cell["cell_type"] == "markdown" else ()
        ):
            assert target.startswith("https://") or (path.parent / target.partition("#")[0]).exists(), target
