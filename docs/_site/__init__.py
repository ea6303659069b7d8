"""Extensions of Sphinx that build the documentation site from the pages, the sources and their docstrings."""
