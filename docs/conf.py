"""The documentation site: `make docs`."""

from importlib.metadata import version as version_of

project = "cellmnn_fm"
author = "The cellmnn_fm authors"
project_copyright = "the cellmnn_fm authors"
version = release = version_of("cellmnn-fm")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "index"
exclude_patterns = ["build"]
html_theme = "furo"
html_title = f"cellmnn_fm {version}"

autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
napoleon_numpy_docstring, napoleon_google_docstring = True, False
napoleon_use_rtype = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks come with their output; tests run them
nb_merge_streams = True
napoleon_use_ivar = True
# shapes such as (cells, latent_dim) are no classes, and links out of docs/ are checked by a test
suppress_warnings = ["ref.python", "myst.xref_missing"]
