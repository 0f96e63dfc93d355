"""Whatever happens to one check, the others go on."""

import subprocess
import sys
import time
from pathlib import Path

from pipeline.doctor.checks import CHECKS
from pipeline.doctor.examination import examine
from pipeline.doctor.finding import Status, ok
from pipeline.doctor.surroundings import Surroundings

ROOT = Path(__file__).parent.parent.parent


def fine(_):
    yield ok("fine", "is well")


def breaks_half_way(_):
    yield ok("half", "this far")
    raise ValueError("a reason\nand more")


def exits(_):
    yield from ()
    sys.exit(3)


def lacks_a_package(_):
    import no_such_package_anywhere  # noqa: F401

    yield ok("never", "")


def hangs(_):
    yield ok("hangs", "this far")
    time.sleep(30)


def findings(*checks, patience=20.0):
    return [finding for _, finding in examine({"All": checks}, Surroundings(), patience)]


def test_a_check_that_raises_is_told_and_the_others_go_on():
    found = findings(breaks_half_way, exits, lacks_a_package, fine)
    assert [one.found for one in found] == [
        "this far",
        "could not be checked: ValueError: a reason",
        "could not be checked: SystemExit: 3",
        "could not be checked: there is no package no_such_package_anywhere",
        "is well",
    ]
    assert [one.name for one in found] == ["half", "breaks half way", "exits", "lacks a package", "fine"]
    assert [one.status for one in found] == [Status.OK, *[Status.NOTE] * 3, Status.OK]


def test_a_check_that_hangs_is_given_up():
    started = time.monotonic()
    found = findings(hangs, fine, patience=0.2)
    assert [one.found for one in found] == ["this far", "could not be checked: no answer within 0.2 s", "is well"]
    assert time.monotonic() - started < 10


def test_what_libraries_say_is_no_part_of_the_report(capsys):
    def talks(_):
        print("a line")
        print("another", file=sys.stderr)
        yield ok("talks", "done")

    assert [one.found for one in findings(talks)] == ["done"]
    assert capsys.readouterr() == ("", "")


def test_every_check_says_what_it_is_about():
    checks = [check for group in CHECKS.values() for check in group]
    assert len(set(checks)) == len(checks) > 30
    assert all(check.__doc__ for check in checks)


def test_the_list_of_checks_imports_nothing_that_may_be_missing():
    code = "import sys, pipeline.doctor.report; print({name.split('.')[0] for name in sys.modules})"
    options = ["-S", "-c"]  # without site-packages
    result = subprocess.run([sys.executable, *options, code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not {"torch", "dvc", "psutil", "rich", "typer", "pydantic", "numpy"} & set(eval(result.stdout))
