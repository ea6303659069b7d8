"""Settings from environment variables, a file and code. Every mistake is reported at once."""

from resilience.config._config import Config, Setting
from resilience.config._load import load
from resilience.config._options import ServiceOptions
from resilience.config._warning import ConfigurationWarning

__all__ = ("Config", "ConfigurationWarning", "ServiceOptions", "Setting", "load")
