"""Sphinx configuration: `sphinx-build -W docs docs/_build` with lowla installed."""

from __future__ import annotations

import lowla

project = "lowla"
author = "the lowla developers"
project_copyright = "2026, the lowla developers"
release = version = lowla.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "amsmath"]
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autodoc_typehints = "none"

exclude_patterns = ["_build"]
html_theme = "alabaster"
html_static_path = ["_static"]
html_theme_options = {"description": "Randomized low-rank linear algebra", "page_width": "66rem"}
nitpicky = False
