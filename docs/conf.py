"""How the pages become a site: `make docs`, which needs no network."""

import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import generate  # noqa: E402 - they lie beside this file
import notebook  # noqa: E402

import skyfold  # noqa: E402 - of this clone, not of an installed version

project = "skyfold"
author = "The skyfold developers"
project_copyright = author
version = release = skyfold.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_design",
]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nitpicky = False  # shapes and dtypes in docstrings are words, not names

autodoc_typehints = "none"  # the docstrings give types with shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# Other projects' indexes are fetched only where asked: the site builds without a network.
if os.environ.get("SKYFOLD_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "astropy": ("https://docs.astropy.org/en/stable", None),
        "zarr": ("https://zarr.readthedocs.io/en/stable", None),
    }

html_theme = "pydata_sphinx_theme"
html_title = "skyfold"
html_static_path = ["static"]
html_css_files = ["skyfold.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_context = {"default_mode": "auto"}
linkcheck_timeout = 10
linkcheck_retries = 1


def _fill(app: Any, page: str, text: list[str]) -> None:
    plain = text[0]
    if str(app.env.doc2path(page)).endswith(".ipynb"):
        plain = notebook.as_markdown(plain)
    text[0] = generate.on_the_site(plain)


def setup(app: Any) -> None:
    """Generated parts are as the code is, whatever the pages hold."""
    app.connect("source-read", _fill)
