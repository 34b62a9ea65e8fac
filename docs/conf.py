import importlib.metadata

project = "jinit"
author = "The jinit authors"
release = version = importlib.metadata.version("jinit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jinit"
exclude_patterns = ["_build"]

default_role = "code"  # `x` in docstrings is code, as in Markdown
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_use_ivar = True
