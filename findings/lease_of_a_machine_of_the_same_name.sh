#!/usr/bin/env bash
# filelock 4.2.11: a lease that is held on another machine of the same name, on storage that both see.
#
# Guess: the record in the lock file says when its machine was started (as the boot's number above the process's start), so that
# the lease of a machine that is not this one is left alone for its duration, as with a machine of another name.
#
# Seen: name and PID namespace alone are compared. The other boot counts as proof that the process with that number here is
# another one, and the lease is taken over at once, while that of a machine of another name is kept.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check filelock==4.2.11
cat > "$folder/lease.py" <<'END'
import re
import sys
import time
from pathlib import Path

import filelock
from filelock import SoftFileLease, Timeout

path = Path(sys.argv[1], "lock")
with SoftFileLease(path, lease_duration=60) as lease:
    record = path.read_text()
    boot, start = divmod(lease.owner.start, 2**64)
assert boot, "this system tells no number of its boot"


def taken_after(text):
    """Seconds until the lease is had with this record in the lock file; None if not within two."""
    path.write_text(text)
    began = time.monotonic()
    try:
        with SoftFileLease(path, lease_duration=60).acquire(timeout=2):
            return time.monotonic() - began
    except Timeout:
        path.unlink()
        return None


of_another_boot = record.replace(f"start={(boot << 64) + start}", f"start={((boot ^ 1) << 64) + start}")
assert of_another_boot != record
namesake = taken_after(of_another_boot)
other_name = taken_after(re.sub("^host=", "host=another-", of_another_boot, flags=re.MULTILINE))
print(f"filelock {filelock.__version__}")
print(f"a machine of this name, started at another time: taken over {'at once' if namesake is not None else 'not'}")
print(f"a machine of another name: taken over {'at once' if other_name is not None else 'not within 2 s'}")
sys.exit(not (namesake is not None and namesake < 1 and other_name is None))
END
"$folder/venv/bin/python" "$folder/lease.py" "$folder"
