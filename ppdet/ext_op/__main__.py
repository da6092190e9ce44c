"""Build the extension: ``python -m ppdet.ext_op``."""

from __future__ import annotations

from deploy.common.command_line import main_guard
from ppdet.ext_op import build


def main() -> None:
    """Build the extension and print the path of the library."""
    print("compiling, which takes about half a minute")
    print(f"built {build()}")


if __name__ == "__main__":
    main_guard(main)
