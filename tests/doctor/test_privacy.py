"""No credential and no home folder in what the report shows."""

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.doctor.privacy import shareable, shell_path

VISIBLE = string.ascii_letters + string.digits + string.punctuation
# A mark at both ends, which no other part of a text has.
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
def test_no_password_of_a_url_is_shown(scheme, user, secret, quoted, tail, around):
    password = quote(secret, safe="") if quoted else secret
    shown = shareable(around.format(f"{scheme}://{user}:{password}@example.org{tail}"))
    assert "s3cr3t" not in shown


@given(key=st.sampled_from(["token", "sig", "X-Amz-Signature", "k"]), secret=SECRET, mark=st.sampled_from("?#"))
def test_nothing_behind_the_address_of_a_url_is_shown(key, secret, mark):
    shown = shareable(f"remote: https://example.org/store{mark}a=b&{key}={secret}")
    assert "s3cr3t" not in shown
    assert shown.startswith("remote: https://")


@pytest.mark.parametrize(
    "text",
    [
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=s3cr3t==;EndpointSuffix=core.windows.net",
        "password = s3cr3t",
        "secret_access_key: 's3cr3t and more'",
        "https://ghp_s3cr3t@github.com/owner/name.git",
        'GITHUB_TOKEN="s3cr3t"',
    ],
)
def test_what_is_named_a_secret_is_not_shown(text):
    assert "s3cr3t" not in shareable(text)


@pytest.mark.parametrize(
    "text",
    [
        "params.yaml: train.lrate: unknown key, allowed are lr, epochs; did you mean lr?",
        "a URL needs data.sha256: set it to the SHA-256 that the publisher states",
        "fetched from https://example.org/food.zip",
        "git@github.com:owner/name.git",
        "3.11.2 (allowed is >=3.11,<3.14)",
        "first line\nsecond line",
    ],
)
def test_plain_text_stays_as_it_is(text):
    assert shareable(text) == text


def test_the_home_folder_has_no_name_and_its_neighbours_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    assert shareable(f"in {tmp_path}/ann/food, {tmp_path}/anna") == f"in ~/food, {tmp_path}/anna"
    assert shareable(f"{tmp_path}/ann") == "~"


def test_a_path_for_a_shell_is_found_by_it(monkeypatch, tmp_path):
    import subprocess

    folder = tmp_path / "ann" / "my food"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    for path in (folder, tmp_path, Path("a b")):
        Path(path if path.is_absolute() else tmp_path / path).mkdir(exist_ok=True)
        result = subprocess.run(
            f"cd {shell_path(path)} && pwd", shell=True, cwd=tmp_path, capture_output=True, text=True
        )
        assert result.stdout.strip() == str(tmp_path / path), result.stderr


def test_control_characters_do_not_reach_the_terminal():
    assert shareable("branch \x1b[31mred\x07") == "branch  [31mred "
