"""``python -m pipeline``: the commands of ``pipeline.cli``."""

import signal
import sys

try:
    from pipeline.cli import main
except KeyboardInterrupt:
    sys.exit(130)
except ModuleNotFoundError as error:
    if sys.argv[1:2] == ["doctor"]:  # it reports which packages are missing, and needs none of them itself
        from pipeline.doctor.report import doctor

        sys.exit(doctor("--json" in sys.argv))
    sys.exit(
        f"error: this Python ({sys.executable}) has no package {error.name}; activate the environment, or run make"
    )

if __name__ == "__main__":
    try:
        main()
    finally:
        # A second Ctrl-C while Python ends would only print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
