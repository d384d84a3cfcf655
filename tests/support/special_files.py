"""Makes files that are not regular files."""

import os
import socket


def make_special(path, kind, monkeypatch):
    """Something at `path` that is no regular file; to open a FIFO would wait for ever."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        monkeypatch.chdir(path.parent)  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        path.symlink_to("/dev/zero" if kind == "a character device" else "/proc/kmsg")
