"""Sphinx configuration of the manual. scripts/docs builds it."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "sb3-sparse"
author = "the sb3-sparse authors"
copyright = "the sb3-sparse authors, MIT licence"
release = version = installed_version("sb3-sparse")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "architecture",
    "breakable_names",
    "command_line",
    "short_names",
]
exclude_patterns = ["_build", "_extensions"]
html_theme = "furo"
html_title = f"sb3-sparse {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sourcelink = False
html_theme_options = {"source_directory": "docs/", "navigation_with_keys": True}

# The slow tests run the notebooks; their outputs are stored.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True

copybutton_exclude = ".linenos, .gp"
