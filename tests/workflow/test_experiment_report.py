"""The report of an experiment, and the steps of its workflow, in a DVC repository."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loopback import LoopbackServer
from tests.support.small_repository import SmallRepository
from tests.support.workflow_steps import run_step, run_steps

SCRIPT = Path(__file__).parents[2] / ".github/experiment_report.py"
STEPS = run_steps("experiment", "experiment")
COMMENT = run_steps("experiment", "comment")["Write or edit the comment"]
FETCH = STEPS["Fetch what is computed already"]
NO_REMOTE = {"DVC_REMOTE_URL": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    """A base with results, and a branch with another learning rate and results that are not committed."""
    repository = SmallRepository(tmp_path_factory.mktemp("repository"))
    shutil.copytree(SCRIPT.parent, repository.folder / ".github")
    repository.dvc("repro")
    repository.commit("base")
    repository.git("switch", "-q", "-c", "rate")
    repository.replace("params.yaml", "lr: 0.001", "lr: 0.9")
    repository.commit("another rate")
    repository.dvc("repro")
    return repository


@pytest.fixture(scope="module")
def text(branch):
    """The report of the branch against its base."""
    return report(branch, "main", "--results", "https://example.org/1")


def report(repository, *arguments, fails=False):
    command = [sys.executable, ".github/experiment_report.py", *arguments]
    result = subprocess.run(command, cwd=repository.folder, capture_output=True, text=True)
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr if fails else result.stdout


def rows(text, title):
    """The cells of each row of the table below a title."""
    after = text.partition(f"{title}\n\n")[2].splitlines()
    lines = list(itertools.takewhile(lambda line: line.startswith("|"), after))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_report_lists_the_changed_metrics_and_parameters(branch, text):
    accuracy = json.loads((branch.folder / "results/metrics/evaluate.json").read_text())["accuracy"]
    committed = json.loads(branch.git("show", "main:results/metrics/evaluate.json"))["accuracy"]
    assert accuracy != committed
    change = f"{round(accuracy - committed, 5):g}"
    assert rows(text, "### Metrics") == [
        ["results/metrics/evaluate.json", "accuracy", f"{committed}", f"{accuracy}", change]
    ]
    assert rows(text, "### Parameters") == [["params.yaml", "train.lr", "0.001", "0.9"]]


def test_report_lists_metrics_that_differ_from_the_committed_ones(branch, text):
    title = "Metrics of this run that differ from those committed by the branch"
    assert title in text
    branch.git("stash", "-q")
    try:
        committed = report(branch, "main")
    finally:
        branch.git("stash", "pop", "-q")
    assert title not in committed
    assert "No metric changed." in committed
    assert "[results]" not in committed


def test_report_shows_no_secret_of_a_parameter(branch):
    before = (branch.folder / "params.yaml").read_text("utf-8")
    branch.replace("params.yaml", "location: null", "location: https://ann:s3cr3t@example.org/a?token=s3cr3t")
    try:
        changed = report(branch, "main")
    finally:
        branch.write("params.yaml", before)
    assert ["params.yaml", "data.location", "-", "https://***@example.org/a?***"] in rows(changed, "### Parameters")
    assert "s3cr3t" not in changed


def test_report_starts_with_the_watermark_of_the_comment(text):
    watermark = text.splitlines()[0]
    assert watermark == "<!-- experiment report -->"
    assert f'startswith("{watermark}")' in COMMENT


def test_report_links_the_results(text):
    assert "[results](https://example.org/1)" in text


def test_base_can_be_a_branch_of_the_origin(branch, tmp_path):
    branch.run("git", "clone", "-q", branch.folder, tmp_path / "clone")
    clone = SmallRepository.__new__(SmallRepository)
    clone.folder = tmp_path / "clone"
    shutil.copytree(branch.folder / "results", clone.folder / "results", dirs_exist_ok=True)
    assert rows(report(clone, "main"), "### Parameters") == [["params.yaml", "train.lr", "0.001", "0.9"]]


@pytest.mark.parametrize("base", ["nowhere", "--output=x", "$(touch broken)"])
def test_an_unknown_base_is_reported_in_one_line(branch, base):
    message = report(branch, "--", base, fails=True)
    assert message.startswith(f"error: base: got '{base}', allowed is a branch, tag or commit")
    assert len(message.splitlines()) == 1


def test_report_is_not_longer_than_a_comment(branch):
    metrics = branch.folder / "results/metrics/evaluate.json"
    before = metrics.read_text()
    metrics.write_text(json.dumps({**json.loads(before), "by": {f"class {n}": n / 1000 for n in range(2000)}}))
    try:
        text = report(branch, "main")
    finally:
        metrics.write_text(before)
    assert len(text) < 65_536
    assert "too long for a comment" in text
    assert rows(text, "### Parameters")


def test_report_step_adds_to_the_summary(branch, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    result = run_step(STEPS["Report"], branch.folder, BASE="main", RESULTS="", GITHUB_STEP_SUMMARY=str(summary))
    assert result.returncode == 0, result.stderr
    assert summary.read_text() == "before\n" + (branch.folder / "experiment.md").read_text()
    (branch.folder / "experiment.md").unlink()


def test_without_a_remote_nothing_is_fetched(branch):
    result = run_step(FETCH, branch.folder, **NO_REMOTE)
    assert result.returncode == 0, result.stderr
    assert "::notice::No remote storage" in result.stdout


def test_a_remote_without_its_package_is_a_warning(branch, tmp_path):
    branch.run("git", "clone", "-q", branch.folder, tmp_path / "clone")
    result = run_step(FETCH, tmp_path / "clone", **{**NO_REMOTE, "DVC_REMOTE_URL": "azure://bucket/folder"})
    assert result.returncode == 0, result.stderr
    assert "dvc-azure" in result.stderr
    assert "::warning::The remote storage could not be read" in result.stdout


@pytest.mark.slow
def test_results_in_the_remote_are_fetched_and_not_computed_again(branch, tmp_path):
    branch.git("stash", "-q")
    branch.git("switch", "-q", "main")
    try:
        branch.dvc("repro")
        branch.dvc("remote", "add", "--local", "--default", "--force", "store", str(tmp_path / "remote"))
        branch.dvc("push", "-q", "--run-cache")
        branch.dvc("remote", "remove", "--local", "store")
        branch.run("git", "clone", "-q", branch.folder, tmp_path / "clone")
    finally:
        branch.git("switch", "-q", "rate")
        branch.git("stash", "pop", "-q")
    result = run_step(FETCH, tmp_path / "clone", **{**NO_REMOTE, "DVC_REMOTE_URL": str(tmp_path / "remote")})
    assert result.returncode == 0, result.stderr
    assert "::" not in result.stdout
    result = run_step(STEPS["Reproduce"], tmp_path / "clone")
    assert result.returncode == 0, result.stderr
    assert "Running stage" not in result.stdout
    assert (tmp_path / "clone/results/evaluation/predictions.csv").exists()


class Comments(LoopbackServer):
    """GitHub's comments on pull request 7 of owner/name, one per page, for one token."""

    def __init__(self, *comments):
        super().__init__()
        self.comments = [{"user": {"type": kind}, "body": body} for kind, body in comments]
        for number, comment in enumerate(self.comments):
            comment["url"] = f"{self.url}/repos/owner/name/issues/comments/{number}"
        self.changes = []

    def answer(self, request):
        status, headers, answer = 404, {}, {"message": "Not Found"}
        path, _, query = request.path.partition("?")
        length = int(request.headers.get("Content-Length") or 0)
        sent = json.loads(request.rfile.read(length)) if length else None
        if request.headers.get("Authorization") != "token secret":
            status, answer = 401, {"message": "Bad credentials"}
        elif path == "/repos/owner/name/issues/7/comments" and request.command == "GET":
            page = int((re.search(r"\bpage=(\d+)", query) or [0, 1])[1])
            status, answer = 200, self.comments[page - 1 : page]
            if page < len(self.comments):
                headers["Link"] = f'<{self.url}{path}?per_page=100&page={page + 1}>; rel="next"'
        elif path == "/repos/owner/name/issues/7/comments" and request.command == "POST":
            self.changes.append(("new", sent["body"]))
            status, answer = 201, sent
        elif path.startswith("/repos/owner/name/issues/comments/") and request.command == "PATCH":
            self.changes.append((int(path.rpartition("/")[2]), sent["body"]))
            status, answer = 200, sent
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json; charset=utf-8")
        request.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


OURS = "<!-- experiment report -->\nof an older push"
TEXT = "<!-- experiment report -->\n| `a` | \"$(touch broken)\" | 'b' |\n@ünïcode\n"


@pytest.mark.skipif(shutil.which("gh") is None, reason="the GitHub CLI, gh, is not installed")
@pytest.mark.parametrize(
    ("comments", "changed"),
    [
        ([], "new"),
        ([("User", "a question")], "new"),
        ([("Bot", "another workflow's"), ("Bot", OURS), ("User", "thanks")], 1),
        ([("Bot", OURS), ("Bot", "another workflow's, and the last"), ("Bot", "one more")], 0),
        # Anyone can write the watermark, but only a bot's comment can be this workflow's.
        ([("User", OURS)], "new"),
    ],
)
def test_comment_is_written_once_and_then_edited(comments, changed, tmp_path):
    (tmp_path / "experiment.md").write_text(TEXT, "utf-8")
    with Comments(*comments) as server:
        result = run_comment(server, tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert server.changes == [(changed, TEXT)]
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.md"]


@pytest.mark.skipif(shutil.which("gh") is None, reason="the GitHub CLI, gh, is not installed")
def test_if_comments_cannot_be_read_none_is_written(tmp_path):
    (tmp_path / "experiment.md").write_text(TEXT, "utf-8")
    with Comments(("Bot", OURS)) as server:
        result = run_comment(server, tmp_path, token="wrong")
        assert result.returncode != 0
        assert "Bad credentials" in result.stdout + result.stderr
        assert server.changes == []


def run_comment(server, folder, token="secret"):
    return run_step(
        COMMENT,
        folder,
        GH_TOKEN=token,
        GH_ENTERPRISE_TOKEN=token,
        GH_CONFIG_DIR=str(folder.parent / "gh"),
        GITHUB_API_URL=server.url,
        GITHUB_REPOSITORY="owner/name",
        PULL_REQUEST="7",
    )
