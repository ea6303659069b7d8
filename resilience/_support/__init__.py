"""Modules that several parts share and no user imports."""
