"""Commands on a pseudo terminal, and the content of its screen."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path


class Screen:
    """The content of a terminal: a carriage return overwrites, long lines wrap."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows, self.row, self.column = columns, [""], 0, 0
        self.wrapped = False

    def feed(self, text: str) -> None:
        for character in text:
            if character == "\r":
                self.column = 0
            elif character == "\n":
                self._next_row()
            else:
                assert character.isprintable(), f"a control character: {character!r}"
                if self.column == self.columns:
                    self.wrapped = True
                    self._next_row()
                    self.column = 0
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
                self.column += 1

    def _next_row(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    def lines(self) -> list[str]:
        return [row.rstrip() for row in self.rows]


def screens(command: list[str], folder: Path, columns: int = 80, **environment: str) -> tuple[list[list[str]], Screen]:
    """Run a command on a terminal; return the lines of its screen at each carriage return, and the final screen."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # on Linux the end of the output
            break
        if not part:
            break
        written += part
    os.close(master)
    screen, shown = Screen(columns), []
    for part in written.decode().split("\r"):
        screen.feed(part)
        shown.append(screen.lines())
        screen.feed("\r")
    assert process.wait() == 0, screen.lines()
    return shown, screen


def bars(shown: list[list[str]]) -> list[str]:
    """The different bars on all screens, in order; a screen has at most one, in its last line."""
    found = []
    for lines in shown:
        with_bar = [number for number, line in enumerate(lines) if "%|" in line]
        assert len(with_bar) <= 1
        assert all(number == len(lines) - 1 for number in with_bar), lines
        found += [line for line in lines if "%|" in line and line not in found]
    return found
