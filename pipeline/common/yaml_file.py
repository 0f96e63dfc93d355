"""Reads YAML that a user wrote, within limits that are checked before anything is built from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionStartEvent, NodeEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from pipeline.common.files import read_small
from pipeline.common.text import one_line, shortened
from pipeline.errors import PipelineError

# A class per line for 20,000 classes takes 2 % of the first and 20 % of the second.
MAX_BYTES, MAX_VALUES = 4 * 1024**2, 100_000
MAX_DEPTH, MAX_KEY = 32, 200
# Python writes no integers of more than 4,300 decimal digits.
MAX_DIGITS = 100


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file: DVC writes ``3e-05``, which is a string in YAML 1.1.

    Raises:
        PipelineError: there is no such file, or as :func:`parse_yaml`.
    """
    try:
        content = read_small(path, MAX_BYTES)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file; run the command in the repository's root folder") from None
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """Parse one document of YAML 1.2.

    Args:
        text: of the document.
        name: of its file, for messages.

    Raises:
        PipelineError: it is not YAML, it has tags or keys that are no names, or it is larger than allowed: in bytes, in
            the number of values (those behind an alias count each time), in depth, or in the digits of a number.
    """
    if len(text) > MAX_BYTES:
        raise PipelineError(f"{name}: {len(text):,} characters, allowed are {MAX_BYTES:,}; shorten it")
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _LimitedComposer
    with _one_line_errors(name):
        return yaml.load(text)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = one_line(getattr(error, "problem", None) or str(error))
        raise PipelineError(f"{name}: {where}{problem}; fix the YAML there") from None
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # The constructors of dates, numbers and keys raise errors of their own.
        raise PipelineError(f"{name}: a value cannot be read ({one_line(str(error))}); fix the YAML") from None


class _LimitedComposer(Composer):
    """Makes the tree of a document, from which its values are built, while it is within the limits."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.values = 0
        self.sizes: dict[str, int] = {}  # the number of values behind each anchor

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: NodeEvent = self.parser.peek_event()
        before = self.values
        self.values += self._size_of_alias(event) if isinstance(event, AliasEvent) else 1
        if self.values > MAX_VALUES:
            _refuse(event, f"more than {MAX_VALUES:,} values, counting those behind an alias each time")
        if self.depth >= MAX_DEPTH:
            _refuse(event, f"lists and mappings more than {MAX_DEPTH} deep")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            _refuse(event, f"the tag {event.tag}, allowed are values without tags")
        if event.anchor in self.anchors and not isinstance(event, AliasEvent):
            _refuse(event, f"the anchor &{event.anchor} twice")
        node = super().compose_node(parent, index)
        if isinstance(event, ScalarEvent) and len(event.value) > MAX_DIGITS and not node.tag.endswith(":str"):
            _refuse(event, f"a number of {len(event.value):,} characters, allowed are {MAX_DIGITS}")
        if isinstance(parent, MappingNode) and index is None:
            _check_key(event, node)
        if event.anchor is not None and not isinstance(event, AliasEvent):
            self.sizes[event.anchor] = self.values - before
        return node

    def _size_of_alias(self, event: AliasEvent) -> int:
        if event.anchor in self.anchors and event.anchor not in self.sizes:
            _refuse(event, f"the alias *{event.anchor} within its own value")
        return self.sizes.get(event.anchor, 0)


def _check_key(event: NodeEvent, node: Node) -> None:
    is_text = isinstance(node, ScalarNode) and str(node.tag).endswith((":str", ":merge"))
    if not (is_text and 0 < len(node.value) <= MAX_KEY and node.value.isprintable()):
        got = shortened(repr(node.value), 80) if isinstance(node, ScalarNode) else "that is a list or a mapping"
        _refuse(event, f"a key {got}, allowed is text of 1 to {MAX_KEY} printable characters")


def _refuse(event: NodeEvent, problem: str) -> None:
    raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
