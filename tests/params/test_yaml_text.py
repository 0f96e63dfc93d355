"""Whatever stands in params.yaml as text: it is read, or refused in one line; no traceback, no hanging."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.params.file import load_params
from pipeline.params.recipes import apply_recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "params.yaml").read_text("utf-8")
LINES = TEXT.splitlines()
FRAGMENTS = [
    *("\t", "\r\n", "\ufeff", "\x00", "\x85", "\u2028", "---", "...", "%YAML 1.1", "&a", "*a", "<<: *a", "<<: {lr: 1}"),
    *(
        "!!int",
        "!x",
        "? ",
        "- ",
        "- - - -",
        ": ",
        "#",
        "'",
        '"',
        "|",
        ">-",
        "{",
        "}",
        "[",
        "]",
        "[" * 999,
        "{a: " * 999,
    ),
    *(
        "- " * 999,
        "seed: 2",
        "train:",
        "  lr: 1",
        "0o17",
        "0x1F",
        "1_000",
        "12:30:45",
        "1e999",
        ".nan",
        "~",
        "yes",
        "=",
    ),
]
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])


FIXED = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_read_or_refused(content):
    path = Path("params.yaml")
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        load_params(path)
    except PipelineError as error:
        for line in str(error).splitlines():
            assert line.startswith("params.yaml: ")
            assert len(line) < 1000


@pytest.mark.slow
@FIXED
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_random_text_is_refused(workspace, content):
    assert_read_or_refused(content)


@st.composite
def spoiled(draw):
    """params.yaml with some fragments among its lines, at their beginnings or inside, and few of the lines."""
    start = draw(st.integers(0, len(LINES) - 1))
    lines = LINES[start : start + draw(st.integers(1, 12))]
    for fragment in draw(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3)):
        row = draw(st.integers(0, len(lines) - 1))
        place = draw(st.sampled_from([0, 2, 6, len(lines[row]) // 2, len(lines[row])]))
        lines[row] = lines[row][:place] + fragment + lines[row][place:]
    return "\n".join(lines)


@pytest.mark.slow
@FIXED
@given(spoiled())
@example(f"{LAUGHS}\n{TEXT}")
@example(TEXT.replace("  lr: 0.001", "  lr: &a [*a]"))
@example(TEXT.replace("  lr: 0.001", "  lr: &a {b: *a}"))
@example("[" * 100_000)
@example("- " * 100_000)
@example(TEXT.replace("  layers: [blocks.2, hidden2]", "  layers: &l [*l]"))
def test_spoiled_text_is_read_or_refused(workspace, content):
    assert_read_or_refused(content)


def test_anchors_and_merge_keys_are_read(workspace):
    text = TEXT.replace("\npredict:\n  split: auto", "\npredict:\n  split: &split auto").replace(
        "evaluate:\n  split: auto", "evaluate:\n  split: &first auto"
    )
    text = text.replace("predict:\n  split: &split auto", "predict:\n  split: *first")
    Path("params.yaml").write_text(text, "utf-8")
    assert load_params(Path("params.yaml")).predict.split == "auto"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
def test_recipe_is_applied_to_text_saved_by_a_windows_editor(workspace, mark):
    shutil.copytree(ROOT / "recipes", "recipes")
    path = Path("params.yaml")
    path.write_bytes(mark + TEXT.replace("\n", "\r\n").encode())
    apply_recipe("food11", path)
    assert load_params(path).model.width == 64
    apply_recipe("digits", path)
    assert path.read_bytes() == TEXT.encode()
