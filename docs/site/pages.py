"""Notebooks as pages, and what of the pages and docstrings means something in a repository, but nothing on a site."""

import re
from pathlib import Path

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

_DOCS = Path(__file__).resolve().parent.parent


def on_files(files, config):
    """Add the page of every notebook, with the outputs that are stored in it."""
    for notebook in [f for f in files if f.src_uri.endswith(".ipynb")]:
        page = Path(notebook.src_uri).with_suffix(".md")
        names = {"unique_key": page.stem, "output_files_dir": f"{page.stem}_files"}
        text, resources = MarkdownExporter().from_filename(notebook.abs_src_path, names)
        files.append(File.generated(config, page.as_posix(), content=text))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, (page.parent / name).as_posix(), content=data))
    return files


def on_page_markdown(markdown, page, config, files):
    """Take away links to what is in the repository but no file of the site, such as sources; notebooks are pages."""

    def shown(link):
        target = (_DOCS / page.file.src_uri).parent / link[2].partition("#")[0]
        outside = target.exists() and (target.is_dir() or _DOCS not in target.resolve().parents)
        return link[1] if outside else link[0]

    text = re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)\s]+)\)", shown, markdown)
    return text.replace(".ipynb)", ".md)")


def on_page_content(html, page, config, files):
    """Take away the roles of docstrings, as in :func:, before the names that they stand for."""
    return re.sub(r":(?:\w+):(<code>)", r"\1", html)
