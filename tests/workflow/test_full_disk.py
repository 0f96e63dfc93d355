"""A stage that finds the disk full ends with one line, changes no output, and works once there is space."""

import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from tests.support.small_disks import ROOT, small_disk

# The stage source writes nothing if nothing has changed.
STAGES = [stage for stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"] if stage != "source"]

# The small disk takes data/ and results/, and has no space left while a stage runs for the first time.
SCRIPT = """
import hashlib, subprocess, sys
from pathlib import Path

disk = Path(sys.argv[1])
for name in ("data", "results"):
    subprocess.run(["cp", "-aL", name, disk], check=True)
    subprocess.run(["mount", "--bind", disk / name, name], check=True)


def content():
    files = [path for name in ("data", "results") for path in Path(name).rglob("*") if path.is_file()]
    return {str(path): hashlib.file_digest(path.open("rb"), "md5").hexdigest() for path in files}


def run(stage):
    return subprocess.run([sys.executable, "-m", "pipeline", stage], capture_output=True, text=True)


for stage in sys.argv[2:]:
    before = content()
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (2**20, 2**10, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue
    result = run(stage)
    after = content()
    (disk / "filler").unlink()
    lines = result.stderr.splitlines()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if result.returncode != 75 or len(lines) != 1 or "No space left on device" not in lines[0] or changed:
        print(f"{stage}: exit code {result.returncode}, changed: {changed}\\n{result.stdout}{result.stderr}")
    again = run(stage)
    if again.returncode:
        print(f"{stage}: fails again: {again.stderr}")
    changed = {path for path in before.keys() | content().keys() if before.get(path) != content().get(path)}
    if changed - {"results/report.html"}:  # it names the commit that it compares with
        print(f"{stage}: differs after the second run: {changed}")
"""


@pytest.mark.slow
def test_full_disk_is_one_line_and_changes_nothing_in_each_stage(origin, tmp_path):
    clone = origin.clone_with_cache(tmp_path / "clone")
    disk = tmp_path / "disk"
    disk.mkdir()
    result = subprocess.run(
        [*small_disk(disk, "64m"), sys.executable, "-c", SCRIPT, str(disk), *STAGES],
        cwd=clone.folder,
        env=clone.variables(),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
