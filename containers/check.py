"""Whether a run that was trained in an image says so, and whether the image can render; `mfql-check` calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mujoco

SCENE = """<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1"/></worldbody></mujoco>"""


def main() -> None:
    """Check the run whose manifest is named on the command line, and render a scene."""
    image = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["image"]
    if not image or not image["digest"].startswith("sha256:"):
        sys.exit(f"the run's manifest does not name the image: {image}")
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 64, 64) as renderer:
        renderer.update_scene(data)
        if renderer.render().std() < 1:
            sys.exit("the rendered scene is blank")


if __name__ == "__main__":
    main()
