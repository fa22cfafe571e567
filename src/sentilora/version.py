"""The version, from the installed package's metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sentilora")
except PackageNotFoundError:  # run from a source folder that was never installed
    __version__ = "0+unknown"
