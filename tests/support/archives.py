"""Zips and tars in memory."""

import io
import tarfile
import zipfile


def packed(files, kind="zip"):
    """Return an archive as bytes; ``kind`` is zip, tar, tgz, tar.gz, tar.bz2 or tar.xz. Names of folders end with /."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return buffer.getvalue()
    mode = {"tar": "w:", "tgz": "w:gz"}.get(kind, f"w:{kind.removeprefix('tar.')}")
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
