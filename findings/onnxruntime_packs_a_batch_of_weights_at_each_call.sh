#!/usr/bin/env bash
# onnxruntime 1.32.0, on Linux, processor: constant weights with a batch axis are packed at each call, those without once.
#
# Guess: an ensemble of two critics, whose weights [2, 512, 512] are a constant of the graph, takes no longer as one MatMul with a
# batch axis than as two products of [512, 512]; torch's own export writes the former, as fewer operators.
#
# Seen: for a few rows the one MatMul takes twice as long or more, with equal results. A session packs the constant right factor of a
# product of two axes (MatMul or Gemm) as it is made, and passes over one of three axes, as its times say: packing is paid for at each
# call, and is most of a product of five rows. Of many rows (640) the two take about the same. It matters where a policy chooses among a few
# candidates by its critics, once for each observation.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6

"$folder/venv/bin/python" - <<'END'
import statistics
import time
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print(*(f"{name} {version(name)}" for name in ("onnxruntime", "onnx", "numpy")))
LAYERS, WIDTH = 6, 512
rng = np.random.default_rng(0)
weights = [(rng.standard_normal((2, WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32) for _ in range(LAYERS)]


def session(nodes: list, constants: dict[str, np.ndarray]) -> onnxruntime.InferenceSession:
    """A session of one thread whose graph leads from `x` [2, rows, WIDTH] to `y` of the same shape."""
    shape = [2, "rows", WIDTH]
    graph = helper.make_graph(
        nodes,
        "critics",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def together() -> onnxruntime.InferenceSession:
    """Both members as one MatMul a layer."""
    names = ["x", *(f"x{layer}" for layer in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(LAYERS)]
    return session(nodes, {f"w{i}": value for i, value in enumerate(weights)})


def apart() -> onnxruntime.InferenceSession:
    """One member after the other."""
    nodes, constants = [helper.make_node("Split", ["x"], ["a0", "b0"], axis=0, num_outputs=2)], {}
    constants["first"] = np.array([0], np.int64)
    for member, name in enumerate("ab"):
        nodes.append(helper.make_node("Squeeze", [f"{name}0", "first"], [f"{name}"]))
        last = name
        for layer, value in enumerate(weights):
            constants[f"{name}w{layer}"] = value[member]
            nodes.append(helper.make_node("MatMul", [last, f"{name}w{layer}"], [f"{name}x{layer}"]))
            last = f"{name}x{layer}"
        nodes.append(helper.make_node("Unsqueeze", [last, "first"], [f"{name}y"]))
    nodes.append(helper.make_node("Concat", ["ay", "by"], ["y"], axis=0))
    return session(nodes, constants)


sessions = {"together": together(), "apart": apart()}
ratios = {}
for rows, rounds in ((5, 200), (640, 15)):
    x = rng.standard_normal((2, rows, WIDTH)).astype(np.float32)
    results = {name: own.run(["y"], {"x": x})[0] for name, own in sessions.items()}
    np.testing.assert_allclose(results["together"], results["apart"], rtol=0, atol=1e-4)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, own in sessions.items():
            began = time.process_time()
            own.run(["y"], {"x": x})
            taken[name].append(time.process_time() - began)
    median = {name: 1e3 * statistics.median(values) for name, values in taken.items()}
    ratios[rows] = median["together"] / median["apart"]
    print(f"{rows:4} rows: together {median['together']:.2f} ms, apart {median['apart']:.2f} ms, ratio {ratios[rows]:.2f}")

assert ratios[5] > 1.4, "weights with a batch axis are packed at each call"
assert ratios[640] < 1.3, "which many rows repay"
END
