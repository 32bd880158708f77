"""A disk that loses, at a power cut, everything that was not synced: made from the calls that a process was traced at.

A file has what it had at its last fsync or fdatasync, a folder the names that it had at its own last fsync, which is
harsher than any file system of today. Memory that is mapped into files is not seen: SQLite keeps only `-shm` so, which
is made anew after a crash.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

CALLS = (
    "openat,close,read,lseek,write,pwrite64,sendfile,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,"
    "symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,dup,fcntl"
)
"""What has to be traced, with `-x -s 67108864`, of the main thread only."""

_LINE = re.compile(r"([a-z0-9]+)\((.*)\) += (-?\d+|0x[0-9a-f]+)")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CHANGES = frozenset(CALLS.split(",")) - {"close", "read", "lseek", "dup", "fcntl"}


class File:
    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.synced = content


class Link:
    def __init__(self, target: str) -> None:
        self.target = target


class Folder:
    def __init__(self) -> None:
        self.names: dict[str, Node] = {}
        self.synced: dict[str, Node] = {}


Node = File | Link | Folder


class Disk:
    """The folder `root` as it is now, all of it synced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = _read(root)
        self._open: dict[int, tuple[Node, int]] = {}

    def replay(self, trace: Path) -> Iterator[str]:
        """Make the traced calls, and stop after each one that changed something: its name."""
        with trace.open() as lines:
            for line in lines:
                found = _LINE.match(line)
                if found is None or found[3].startswith("-"):
                    continue
                if self._make(found[1], found[2], int(found[3], 0)) and found[1] in _CHANGES:
                    yield found[1]

    def write_synced(self, target: Path) -> None:
        """What is left after a power cut."""
        _write(self._top, target)

    def files(self) -> dict[str, bytes]:
        """What a process sees that goes on: path -> content."""
        return dict(_files(self._top, ""))

    def _make(self, call: str, given: str, result: int) -> bool:
        """Whether it was about this folder."""
        if call == "openat":
            return self._opened(given, result)
        if call in ("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"):
            return self._named(call, given)
        if call in ("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"):
            place = self._place(given, 0)
            if place is None:
                return False
            folder, name = place
            if call.startswith("mkdir"):
                folder.names[name] = Folder()
            else:
                del folder.names[name]
            return True
        return self._used(call, given, result)

    def _opened(self, given: str, handle: int) -> bool:
        self._open.pop(handle, None)
        place = self._place(given, 0)
        if place is None:
            return False
        folder, name = place
        node = folder.names.get(name) if name else folder
        while isinstance(node, Link):
            path = os.path.normpath(Path(self._path(given)).parent / node.target)
            above, name = self._walk(path)
            node = above.names.get(name)
        if node is None:
            node = folder.names[name] = File()
        elif isinstance(node, File) and "O_TRUNC" in given:
            node.content.clear()
        self._open[handle] = (node, 0)
        return "O_CREAT" in given

    def _named(self, call: str, given: str) -> bool:
        if call.startswith("symlink"):
            place = self._place(given, 1)
            if place is None:
                return False
            place[0].names[place[1]] = Link(_strings(given)[0])
            return True
        source, target = self._place(given, 0), self._place(given, 1)
        if source is None or target is None:
            return False
        node = source[0].names[source[1]]
        if call.startswith("rename"):
            del source[0].names[source[1]]
        target[0].names[target[1]] = node
        return True

    def _used(self, call: str, given: str, result: int) -> bool:
        handle = int(re.match(r"\d+", given)[0])  # type: ignore[index]
        if call in ("dup", "fcntl"):
            if handle in self._open and (call == "dup" or "F_DUPFD" in given):
                self._open[result] = self._open[handle]
            return False
        if call == "close":
            return self._open.pop(handle, None) is not None
        if handle not in self._open:
            return False
        node, at = self._open[handle]
        if isinstance(node, Folder):
            if call == "fsync":
                node.synced = dict(node.names)
            return call == "fsync"
        assert isinstance(node, File)
        if call in ("fsync", "fdatasync"):
            node.synced = bytes(node.content)
        elif call == "ftruncate":
            size = int(given.rpartition(",")[2])
            node.content[:] = node.content[:size].ljust(size, b"\0")
        elif call == "lseek":
            self._open[handle] = (node, result)
        elif call == "read":
            self._open[handle] = (node, at + result)
        elif call == "sendfile":
            source, begins = self._open[int(given.split(",")[1])]
            assert isinstance(source, File)
            _put(node, at, bytes(source.content[begins : begins + result]))
            self._open[handle] = (node, at + result)
        elif call == "pwrite64":
            _put(node, int(given.rpartition(",")[2]), _bytes(given)[:result])
        elif call == "write":
            _put(node, at, _bytes(given)[:result])
            self._open[handle] = (node, at + result)
        return True

    def _place(self, given: str, index: int) -> tuple[Folder, str] | None:
        path = self._path(given, index)
        if not path.startswith(f"{self._root}/") and path != str(self._root):
            return None
        return self._walk(path)

    def _path(self, given: str, index: int = 0) -> str:
        """Relative to a folder that is open, or absolute."""
        name = _strings(given)[index]
        if name.startswith("/"):
            return os.path.normpath(name)
        handles = re.findall(r"(?:^|, )(\d+|AT_FDCWD), \"", given)
        if handles and handles[0] != "AT_FDCWD":
            held = self._open.get(int(handles[min(index, len(handles) - 1)]))
            if held is not None and isinstance(held[0], Folder):
                return f"{self._where(held[0])}/{name}"
        return name

    def _where(self, wanted: Folder) -> str:
        waiting = [(self._top, str(self._root))]
        while waiting:
            folder, path = waiting.pop()
            if folder is wanted:
                return path
            waiting += [(node, f"{path}/{name}") for name, node in folder.names.items() if isinstance(node, Folder)]
        return "/gone"

    def _walk(self, path: str) -> tuple[Folder, str]:
        parts = Path(path).relative_to(self._root).parts
        folder = self._top
        for part in parts[:-1]:
            below = folder.names[part]
            assert isinstance(below, Folder)
            folder = below
        return folder, parts[-1] if parts else ""


def _strings(given: str) -> list[str]:
    return [os.fsdecode(ast.literal_eval(f'b"{text}"')) for text in _STRING.findall(given)]


def _bytes(given: str) -> bytes:
    content = ast.literal_eval(f'b"{_STRING.search(given)[1]}"')  # type: ignore[index]
    assert isinstance(content, bytes)
    return content


def _put(file: File, at: int, content: bytes) -> None:
    file.content.extend(bytes(max(0, at - len(file.content))))
    file.content[at : at + len(content)] = content


def _read(path: Path) -> Folder:
    folder = Folder()
    for each in path.iterdir():
        if each.is_symlink():
            folder.names[each.name] = Link(os.readlink(each))
        else:
            folder.names[each.name] = _read(each) if each.is_dir() else File(each.read_bytes())
    folder.synced = dict(folder.names)
    return folder


def _files(folder: Folder, path: str) -> Iterator[tuple[str, bytes]]:
    for name, node in folder.names.items():
        if isinstance(node, Folder):
            yield from _files(node, f"{path}{name}/")
        elif isinstance(node, File):
            yield f"{path}{name}", bytes(node.content)


def _write(folder: Folder, target: Path) -> None:
    target.mkdir()
    for name, node in folder.synced.items():
        path = target / name
        if isinstance(node, Folder):
            _write(node, path)
        elif isinstance(node, Link):
            path.symlink_to(node.target)
        elif not name.endswith("-shm"):
            path.write_bytes(node.synced)
