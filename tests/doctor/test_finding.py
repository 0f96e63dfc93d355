"""What a report shows contains no password and no home folder, and other programs are asked with a time limit."""

import string
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.doctor.finding import ask, complaint, shareable, shell_path

VISIBLE = string.ascii_letters + string.digits + string.punctuation
# Both ends are marked with a text that occurs nowhere else.
SECRET = st.text(VISIBLE, max_size=20).map(lambda text: f"s3cr3t{text}s3cr3t")


@given(
    scheme=st.sampled_from(["https", "http", "s3", "ssh", "webdavs", "azure", "git+https"]),
    user=st.one_of(st.just(""), st.text(VISIBLE.replace("@", ""), min_size=1, max_size=8)),
    secret=SECRET,
    quoted=st.booleans(),
    tail=st.sampled_from(["", "/", "/data/food.zip", "/a@b/c", ":8080/x"]),
    around=st.sampled_from(["{}", "url = {}", "'{}'", "see `{}`, please", "({})"]),
)
@example("https", "u", "s3cr3t?/#@s3cr3t", False, "/x", "{}")
def test_no_password_in_a_url_is_shown(scheme, user, secret, quoted, tail, around):
    password = quote(secret, safe="") if quoted else secret
    assert "s3cr3t" not in shareable(around.format(f"{scheme}://{user}:{password}@example.org{tail}"))


@given(key=st.sampled_from(["token", "sig", "X-Amz-Signature", "k"]), secret=SECRET, mark=st.sampled_from("?#"))
def test_no_query_or_fragment_of_a_url_is_shown(key, secret, mark):
    shown = shareable(f"remote: https://example.org/store{mark}a=b&{key}={secret}")
    assert "s3cr3t" not in shown
    assert shown.startswith("remote: https://")


@pytest.mark.parametrize(
    "text",
    [
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=s3cr3t==;EndpointSuffix=core.windows.net",
        "password = s3cr3t, secret_access_key: 's3cr3t and more'",
        "https://ghp_s3cr3t@github.com/owner/name.git",
        'GITHUB_TOKEN="s3cr3t"',
    ],
)
def test_a_value_that_is_named_a_secret_is_not_shown(text):
    assert "s3cr3t" not in shareable(text)


def test_control_characters_become_spaces_and_other_text_is_not_changed():
    assert shareable("branch \x1b[31mred\x07") == "branch  [31mred "
    text = (
        "a URL needs data.sha256: set it to 3.11 (>=3.11,<4), as https://example.org/food.zip\ngit@github.com:a/b.git"
    )
    assert shareable(text) == text


def test_the_home_folder_becomes_a_tilde_but_not_a_folder_with_a_longer_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    assert shareable(f"in {tmp_path}/ann/food, {tmp_path}/anna, {tmp_path}/ann") == f"in ~/food, {tmp_path}/anna, ~"


def test_a_shell_finds_a_quoted_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    for path in (tmp_path / "ann" / "my food", tmp_path, Path("a b")):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        command = f"cd {shell_path(path)} && pwd"
        result = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert result.stdout.strip() == str(tmp_path / path), result.stderr


def test_a_program_that_does_not_end_or_does_not_exist_has_an_exit_code_and_a_reason():
    late = ask(sys.executable, "-c", "import time; time.sleep(60)", seconds=0.3)
    assert (late.returncode, complaint(late)) == (124, "no answer within 0.3 s")
    missing = ask("no-such-program")
    assert (missing.returncode, complaint(missing)) == (127, "no-such-program: No such file or directory")
    failed = ask(sys.executable, "-c", "print('ERROR: a reason'); print('Traceback (most'); exit(3)")
    assert (failed.returncode, complaint(failed)) == (3, "a reason")
