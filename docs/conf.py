"""Settings of the documentation site: `make docs` builds it into build/docs."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "_extensions"))

project = "mtbert"
author = "The mtbert authors"
copyright = "The mtbert authors, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mtbert_pages"]
smartquotes = False  # help texts show quotes as they are written in code
exclude_patterns = ["_extensions", "_static"]
nitpicky = False  # types of torch and transformers have no pages here

html_theme = "furo"
html_title = "mtbert"
html_static_path = ["_static"]
html_css_files = ["mtbert.css"]
html_copy_source = False
html_show_sourcelink = False
# no page needs a network: equations are MathML, and the theme brings its own styles and scripts
html_math_renderer = "mathml"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

napoleon_use_ivar = True  # fields of a dataclass as a list, not as targets of their own
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
