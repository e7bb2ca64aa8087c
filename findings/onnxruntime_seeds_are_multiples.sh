#!/usr/bin/env bash
# onnxruntime 1.32.0, on Linux: what a random operator draws from seed k is k times what it draws from seed 1, modulo 1.
#
# Guess: the attribute `seed` of ONNX's random operators chooses among unrelated sequences, so that an exported policy that
# draws its noise inside, evaluated under seeds 0 to 7, is evaluated on eight independent samples.
#
# Seen: the generator is the C++ library's default, linear and seeded with the whole part of the attribute. The first uniform
# number from seed k is k times 7.8e-6, below 0.001 for the first hundred seeds; all later ones are multiples too. Seeds 0, 1 and
# every fraction below 2 are one sequence. Being a float32, the attribute holds no odd number above 2^24: 2^24 + 1 is 2^24.
# Normal numbers come of the same draws. A hash of the seed as the attribute gives sequences that look unrelated.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6

"$folder/venv/bin/python" - <<'END'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

print(*(f"{name} {version(name)}" for name in ("onnxruntime", "onnx", "numpy")))


def drawn(seed: float, operator: str = "RandomUniform") -> np.ndarray:
    """The first 2,000 numbers of a session whose graph is one random operator."""
    node = helper.make_node(operator, [], ["y"], shape=[2000], seed=seed)
    graph = helper.make_graph([node], "draw", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2000])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0]


one = drawn(1.0).astype(np.float64)
print("\nseed  first     largest distance from seed x (seed 1) modulo 1")
for seed in (2, 3, 5, 8):
    away = np.abs(drawn(float(seed)) - one * seed % 1)
    away = np.minimum(away, 1 - away).max()
    print(f"{seed:4}  {drawn(float(seed))[0]:.2e}  {away:.1e}")
    assert away < 1e-5, "a multiple, to the rounding of float32"

firsts = np.array([drawn(float(seed))[0] for seed in range(100)])
print("largest first number of seeds 0 to 99:", firsts.max())
assert firsts.max() < 0.001

same = [seed for seed in (0.0, 0.9, 1.7, 2.0) if np.array_equal(drawn(seed, "RandomNormal"), drawn(1.0, "RandomNormal"))]
print("normal numbers of seed 1 come from these seeds too:", same)
assert same == [0.0, 0.9, 1.7]
assert np.array_equal(drawn(2.0**24 + 1), drawn(2.0**24)), "the attribute is a float32"
END
