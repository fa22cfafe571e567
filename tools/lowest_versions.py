"""Constraints for pip: every dependency at the lowest version that pyproject.toml allows.

python tools/lowest_versions.py > lowest.txt      # make test-lowest does it
"""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest_versions(text: str) -> list[str]:
    """["torch==2.11", …] for the text of a pyproject.toml that has "torch>=2.11", …"""
    dependencies = tomllib.loads(text)["project"]["dependencies"]
    pairs = [dependency.split(">=") for dependency in dependencies]
    return [f"{name}=={version}" for name, version in pairs]


if __name__ == "__main__":
    print("\n".join(lowest_versions(PROJECT.read_text(encoding="utf-8"))))
