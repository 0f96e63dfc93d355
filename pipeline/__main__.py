"""``python -m pipeline``: the commands of ``pipeline.cli``."""

import sys

try:
    from pipeline.cli import main
except ModuleNotFoundError as error:
    sys.exit(
        f"error: this Python ({sys.executable}) has no package {error.name}; activate the environment, or run make"
    )

if __name__ == "__main__":
    main()
