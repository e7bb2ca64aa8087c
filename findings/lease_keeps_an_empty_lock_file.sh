#!/usr/bin/env bash
# filelock 4.2.11: a lease does not expire while its lock file is empty.
#
# Guess: whoever holds a `SoftFileLease` renews the date of its file, and a file that nobody renews for `lease_duration` is taken
# over, as that of a holder on another machine is, and one whose text was cut off.
#
# Seen: a file of no bytes is kept, however old. It is what a process leaves that ends between making the file and writing its
# name; filelock takes it for a lock of its releases before 3.22, which wrote no name. `force_break` removes it.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check filelock==4.2.11

"$folder/venv/bin/python" - "$folder" <<'END'
import sys
import time
from importlib.metadata import version
from pathlib import Path

from filelock import SoftFileLease, Timeout

DURATION = 1.0
other = f"filelock/2\npid=1\nhost=another-machine\nmode=lease\ntoken=0\nduration={DURATION}\n"
taken = {}
print("filelock", version("filelock"))
for name, text in {"of another machine": other, "cut off": other[:20], "empty": ""}.items():
    path = Path(sys.argv[1], name)
    path.write_text(text)
    lease, began = SoftFileLease(path, lease_duration=DURATION), time.monotonic()
    try:
        with lease.acquire(timeout=8 * DURATION):
            taken[name] = True
            print(f"{name}: taken over after {time.monotonic() - began:.0f} s")
    except Timeout:
        taken[name] = False
        print(f"{name}: not taken over in {8 * DURATION:.0f} s of a lease of {DURATION:.0f} s")
assert taken == {"of another machine": True, "cut off": True, "empty": False}
END
