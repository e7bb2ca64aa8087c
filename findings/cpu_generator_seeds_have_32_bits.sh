#!/usr/bin/env bash
# torch 2.13.0: a generator on a processor uses the lower 32 bits of its seed.
#
# Guess: `manual_seed` takes any whole number from -2^63 to 2^64 - 1 and keeps all of it (`initial_seed` returns it), so two
# different ones give two streams; a 64-bit hash of a name makes a seed that coincides with no other in practice.
#
# Seen: seeds that are equal modulo 2^32 give the same numbers, of every kind. The chance that two of 100,000 hashed seeds
# give one stream is 69 %, not 3e-10.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'END'
import torch

print("torch", torch.__version__)
kinds = {
    "randn": lambda source: torch.randn(1000, generator=source),
    "rand": lambda source: torch.rand(1000, generator=source, dtype=torch.float64),
    "randint": lambda source: torch.randint(2**62, (1000,), generator=source),
    "randperm": lambda source: torch.randperm(1000, generator=source),
}
for name, draw in kinds.items():
    first = draw(torch.Generator().manual_seed(5))
    same = [torch.equal(first, draw(torch.Generator().manual_seed(5 + (high << 32)))) for high in (1, 12345, 2**31)]
    other = torch.equal(first, draw(torch.Generator().manual_seed(6)))
    print(f"{name:<9} seed 5 and 5 + h 2^32: {same}, seed 6: {other}")
    assert all(same) and not other, "streams are those of the seed modulo 2^32"

kept = torch.Generator().manual_seed(5 + 2**32).initial_seed()
print("initial_seed of 5 + 2^32:", kept)
assert kept == 5 + 2**32, "the whole seed is kept"
END
