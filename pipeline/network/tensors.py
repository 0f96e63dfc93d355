"""Files of tensors: safetensors, with what they are for in the metadata and a checksum of both; without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pipeline.common.files import replacing
from pipeline.common.reading import checked, checksum, require_checksum, with_checksum
from pipeline.params.schema import Section

# The metadata of 20,000 classes have 1 MB.
MAX_HEADER = 16 * 2**20
WEIGHTS = "weights"
Content = TypeVar("Content", bound=Section)
Arrays = dict[str, NDArray[Any]]
Mean = Annotated[float, Field(ge=0, le=1)]
# Of images without any contrast it is 4e-9.
Std = Annotated[float, Field(ge=1e-9, le=1)]


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], key: str, content: dict[str, Any]) -> None:
    """Write tensors, a mapping for JSON as the metadata ``key``, and their checksums."""
    metadata = with_checksum(content | {WEIGHTS: tensors_checksum(tensors)})
    with replacing(path) as temporary:
        temporary.touch()
        permissions = temporary.stat().st_mode
        # A single entry: the order of several is random, and would change the hash of the file.
        save_file(dict(tensors), temporary, {key: json.dumps(metadata, ensure_ascii=False)})
        # safetensors makes the file readable by its owner only.
        temporary.chmod(permissions)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file of any program, of which only the header is read.

    Raises:
        ValueError: it is no such file, or its header is too large.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if not 0 < size < path.stat().st_size:
        raise ValueError("is not a safetensors file")
    if size > MAX_HEADER:
        raise ValueError(f"its header has {size:,} bytes, allowed are {MAX_HEADER:,}")
    with safe_open(path, "np") as file:
        return dict(file.metadata() or {})


def read_content(path: Path, key: str, kind: type[Content]) -> Content:
    """The mapping that was given to :func:`write_tensors`.

    Raises:
        ValueError: the file has none, or it is not of this kind.
    """
    text = read_metadata(path).get(key)
    if text is None:
        raise ValueError("not a weights file of this project")
    try:
        return kind.model_validate_json(json.dumps(checked(text)))
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise ValueError(f"its metadata are wrong: {f'{name}: ' if name else ''}{problem['msg']}") from None


def read_tensors(path: Path, expected: str) -> Arrays:
    """The tensors of a file, by their names.

    Raises:
        ValueError: they have another checksum than ``expected``, which is in the metadata.
    """
    tensors: Arrays = load_file(path)
    require_checksum(tensors_checksum(tensors), expected)
    return tensors


def tensors_checksum(tensors: Mapping[str, NDArray[Any]]) -> str:
    """The checksum of the content of tensors."""
    return checksum(tensor.data for _, tensor in sorted(tensors.items()))
