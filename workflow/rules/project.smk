"""Where what the project ships lies, and the configuration over its default.

The workflow may run in any folder, and be a module of another: what it makes (`results`, `logs`, `data_dir`) lies in the folder
that it runs in, and what it ships is found from this file.
"""

import os
import sys
from pathlib import Path

from snakemake.utils import update_config

from mfql.documents import read_yaml
from mfql.errors import UserError
from mfql.experiment.configuration import in_workflow
from mfql.extensions import IS_INSTALLED, PROJECT as PACKAGED, project_path

# A workflow that Snakemake reads from a web address or a bare repository has no folder.
if not isinstance(workflow.current_basedir, os.PathLike):
    sys.exit(
        "Error: the Snakefile of MFQL lies in no folder of this machine.\n"
        "  Clone the project, install it, and name the clone's workflow/Snakefile."
    )
PROJECT = os.path.realpath(Path(workflow.current_basedir).parents[1])
AT_HOME = os.path.realpath(os.curdir) == PROJECT
# Whether it is that of an installed package, which `mfql run` finds.
IS_PACKAGED = IS_INSTALLED and PROJECT == os.path.realpath(PACKAGED)
# Whether Snakemake was started with this workflow, which then is no module of another.
IS_MAIN = os.path.realpath(workflow.basedir) == os.path.join(PROJECT, "workflow")


def in_project(path):
    """The path of what ships with the workflow, from the folder that it runs in: jobs and their records name no absolute one."""
    return os.path.relpath(os.path.join(PROJECT, path))


# As of every command of `mfql`, that of the folder that this workflow runs in goes first. A module's is the project's own.
CONFIG = str(project_path("config", PROJECT)) if IS_MAIN else in_project("config")
# No `configfile:`. Snakemake leaves that out of a module with a `config:` of its own, which would then have to name every key.
try:
    default = read_yaml(
        os.path.join(CONFIG, "config.yaml"), "A folder config of your own needs all that the project's has."
    )
except UserError as error:
    sys.exit(f"Error: {error}")
update_config(default, config)
config = in_workflow(default, CONFIG)
