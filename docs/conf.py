"""The settings of the documentation site: `sphinx-build docs build/site`."""

from __future__ import annotations

import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "adapters"), str(ROOT / "docs")]

from resilience import __version__  # noqa: E402 - of this checkout

project = "resilience-plugins"
version = release = __version__
project_copyright = "the authors of resilience-plugins"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "_site.captions",
    "_site.llms",
    "_site.navigation",
    "_site.reference",
    "_site.sources",
]
exclude_patterns = ["_site", "_static"]

# The anchors are those of GitHub, so a link of a page is right in both places.
myst_heading_anchors = 4

# A signature shows the types as the source has them, with a line for each parameter if it is long.
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries = False

html_theme = "furo"
html_title = f"resilience-plugins {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app: Sphinx) -> None:
    """Show PromQL as text: the lexer of Pygments refuses the colons in the names of recorded series."""
    app.add_lexer("promql", TextLexer)
