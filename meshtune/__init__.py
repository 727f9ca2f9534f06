"""meshtune."""

__version__ = "0.1.0"
