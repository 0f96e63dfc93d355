"""What a file is that was taken for an archive and is none: the usual surprises of downloads, by their first bytes."""

import html
import re

HEAD = 4096  # bytes that tell them, and hold a page's title
_BEGINNINGS = {
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"%PDF-": "a PDF document",
    b'{"': "a JSON text, perhaps an error message",
    b"<?xml": "an XML text, perhaps an error message",
}


def what_it_is(head: bytes) -> str | None:
    """Name a file by its first bytes (``HEAD`` or fewer), None where it is none of the usual surprises."""
    named = (name for beginning, name in _BEGINNINGS.items() if head.startswith(beginning))
    return page_or_pointer(head) or next(named, None)


def page_or_pointer(head: bytes) -> str | None:
    """Name what servers give in place of a file: a web page, or a Git LFS pointer; None for anything else."""
    if head.startswith(b"version https://git-lfs.github.com/spec/v1"):
        return "a Git LFS pointer and not the file that it stands for (git lfs pull fetches that)"
    if not re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head)\b", head, re.IGNORECASE):
        return None
    found = re.search(rb"<title[^>]*>(.*?)</title", head, re.IGNORECASE | re.DOTALL)
    title = html.unescape(found[1].decode("utf-8", "replace")) if found else ""
    title = " ".join("".join(char if char.isprintable() else " " for char in title).split())[:80]
    return f"a web page (HTML), titled '{title}'" if title else "a web page (HTML)"
