"""What a user may not read, whether the tests run as root or not, and what the system refuses otherwise."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# From <linux/capability.h>: version 3 of the call, and the two by which root passes over permissions.
_VERSION, _PASSES_OVER = 0x20080522, 1 << 1 | 1 << 2


@contextmanager
def forbidden(*paths: Path) -> Iterator[None]:
    """Take all permissions from files or folders while the block runs, and from root's thread what passes over them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    modes = [path.stat().st_mode for path in paths]
    for path in reversed(paths):
        path.chmod(0)
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~_PASSES_OVER
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@contextmanager
def open_for_writing(path: Path) -> Iterator[int]:
    """An HDF5 file that another process, of this number, has open as a notebook does."""
    code = f"import h5py, sys; file = h5py.File({str(path)!r}, 'a'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.communicate()


def preloaded(folder: Path, code: str) -> dict[str, str]:
    """The variable of the environment that lays C functions over those of the system."""
    source = folder / "over.c"
    source.write_text(code, encoding="utf-8")
    library = folder / "over.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


# A file system without locks.
NO_LOCKS = "#include <errno.h>\nint flock(int file, int wanted) { return errno = ENOLCK, -1; }\n"
# A disk on which an HDF5 file's header can be read, and its arrays cannot.
FAILING_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static ssize_t over(const char *name, int file, void *to, size_t size, off_t at) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (size >= 2000 && readlink(link, path, sizeof path - 1) > 0 && strstr(path, ".hdf5")) return errno = EIO, -1;
    return ((ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, name))(file, to, size, at);
}
ssize_t pread(int file, void *to, size_t size, off_t at) { return over("pread", file, to, size, at); }
ssize_t pread64(int file, void *to, size_t size, off_t at) { return over("pread64", file, to, size, at); }
"""
