"""What of the pages and docstrings means something in a repository, but nothing on a site."""

import re
from pathlib import Path

_DOCS = Path(__file__).resolve().parent.parent


def on_page_markdown(markdown, page, config, files):
    """Take away links to what is in the repository but no file of the site, such as sources and folders."""

    def shown(link):
        target = (_DOCS / page.file.src_uri).parent / link[2].partition("#")[0]
        outside = target.exists() and (target.is_dir() or _DOCS not in target.resolve().parents)
        return link[1] if outside else link[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)\s]+)\)", shown, markdown)


def on_page_content(html, page, config, files):
    """Take away the roles of docstrings, as in :func:, before the names that they stand for."""
    return re.sub(r":(?:\w+):(<code>)", r"\1", html)
