"""Configuration: every knob as a variable, as a key in a file, and in code; every mistake reported at once."""

from resilience.config._config import Config, Setting
from resilience.config._load import ConfigurationWarning, load
from resilience.config._options import ServiceOptions

__all__ = ("Config", "ConfigurationWarning", "ServiceOptions", "Setting", "load")
