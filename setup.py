"""What pyproject.toml cannot say: the package has the project's own files, which lie beside it in a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# They keep their places below `mfql/project`, where mfql.extensions.project_path looks: configuration, published
# numbers, the workflow with its profiles, and what `mfql parity` compares with.
SHIPPED = ("config", "published", "profiles", "workflow", "tests/data/reference.npz", "tests/data/baselines.npz")


class WithProject(build_py):
    """Copies them into what is built; an editable installation finds them in the checkout."""

    def run(self) -> None:
        """Build as setuptools does, and add the files."""
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(Path(self.build_lib, "mfql", "project"), ignore_errors=True)  # An earlier build's may be others.
        for source, target in self._shipped().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All that is written, for those who list what is installed."""
        return [*super().get_outputs(include_bytecode), *self._shipped().values()]

    def _shipped(self) -> dict[str, str]:
        """Each file of the checkout with the one that it becomes."""
        root = Path(self.build_lib, "mfql", "project")
        found = [path for name in SHIPPED for path in _files(Path(name))]
        return {str(path): str(root / path) for path in sorted(found)}


def _files(path: Path) -> list[Path]:
    # `workflow/profiles` is a link to a folder, whose files are to be there as those of a folder.
    if not path.is_dir():
        return [path]
    return [file for child in path.iterdir() if not child.name.startswith(".") for file in _files(child)]


setup(cmdclass={"build_py": WithProject})
