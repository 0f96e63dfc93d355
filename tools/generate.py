"""Writes the files and comments that are derived from the schema of the parameters; ``make generate`` runs it.

==========================  ==================================================================
the comments in params.yaml from the descriptions in the schema, pipeline/params/
recipes/digits.yaml         the values of params.yaml, without comments
docs/parameters.md          from the schema, params.yaml and dvc.yaml
==========================  ==================================================================

With ``--check`` it writes nothing, and exits with 1 if something is out of date.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.common.files import write_text
from pipeline.common.yaml_file import parse_yaml
from pipeline.errors import PipelineError
from pipeline.params.file import check_params
from pipeline.params.reference import Parameter, parameters, sections_by_name
from pipeline.params.schema import Params

ROOT = Path(__file__).parent.parent
PAGE = """# Parameters

Every parameter in [`params.yaml`](../params.yaml). The defaults are those of the recipe `digits`.
When a value changes, `dvc repro` runs the stages in the last column, the stages that depend on them, and `report`.
On the terminal, with the current values: `python -m pipeline params` or `python -m pipeline params train.lr`.
Values that contradict each other are rejected before any work, with the reason.
"""


def generated(root: Path = ROOT) -> dict[Path, str]:
    """The derived text of each file.

    Raises:
        PipelineError: ``params.yaml`` is invalid, or not that of the digits, from which the others are derived.
    """
    texts = {name: (root / name).read_text("utf-8") for name in ("dvc.yaml", "params.yaml", "recipes/digits.yaml")}
    params = commented(texts["params.yaml"])
    content = parse_yaml(params, "params.yaml")
    if check_params(content, root / "params.yaml").data.source != "digits":
        raise PipelineError("params.yaml: data.source is not digits; run python -m pipeline recipe apply digits first")
    return {
        root / "params.yaml": params,
        root / "recipes/digits.yaml": with_values(texts["recipes/digits.yaml"], params),
        root / "docs/parameters.md": page(parameters(content, parse_yaml(texts["dvc.yaml"], "dvc.yaml"))),
    }


def commented(text: str) -> str:
    """The text of ``params.yaml`` with the description of each parameter as a comment after it."""
    lines: list[str] = []
    section: type[Any] = Params
    sections = sections_by_name()
    for line in text.splitlines():
        if opened := re.fullmatch(r"(\w+):", line):
            section = sections.get(opened[1], Params)
        key = re.match(r"(?:  )?(\w+):", line)
        inside = line.startswith("  ")
        field = (section if inside else Params).model_fields.get(key[1]) if key else None
        if field is not None and field.description:
            line = f"{line.partition('  # ')[0].rstrip()}  # {field.description}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def with_values(recipe: str, params: str) -> str:
    """The text of a recipe: its heading, and the values of ``params.yaml`` without comments."""
    heading = "\n".join(line for line in recipe.split("\n\n")[0].splitlines())
    values = [line.partition("  # ")[0] for line in params.splitlines() if not line.startswith("#")]
    return heading + "\n\n" + "\n".join(values).strip() + "\n"


def page(table: list[Parameter]) -> str:
    """The page of all parameters in Markdown, one table per section."""
    lines = [PAGE]
    names = {name: " ".join((kind.__doc__ or "").split()) for name, kind in sections_by_name().items()}
    for section, title in {"": "Read by several stages.", **names}.items():
        rows = [row for row in table if row.key.rpartition(".")[0] == section]
        lines += [f"## {section or 'Top level'}", "", title.replace("``", "`"), ""]
        lines += ["| parameter | allowed | default | meaning | read by |", "| --- | --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows] + [""]
    return "\n".join(lines)


def _cells(row: Parameter) -> Iterator[str]:
    cells = f"`{row.key}`", row.allowed, f"`{row.value}`", row.meaning, ", ".join(row.stages)
    yield from (cell.replace("|", "\\|") for cell in cells)


def main() -> None:
    """Write what is out of date, or with ``--check`` only list it."""
    try:
        stale = {
            path: text for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text
        }
    except PipelineError as error:
        sys.exit(f"error: {error}")
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date; run make generate' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            write_text(path, text)
    sys.exit("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    main()
