"""What holds for every test process."""

import os
from pathlib import Path

import pytest

# One thread a process, as the harness itself runs: pytest-xdist has a process for every core, and libraries that are left to
# themselves start a thread for every core in each of them. Set before anything imports torch; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's base model, built once per test process."""
    from harness.config import BuiltModel
    from harness.experiment.runs import base_models, load_experiment
    from harness.models.pretrain import build_base_model
    from tests.experiments import miniature, write

    folder = tmp_path_factory.mktemp("models")
    path = write(folder, miniature())
    for name, (_, source) in base_models(load_experiment([path])).items():
        assert isinstance(source, BuiltModel)
        build_base_model(source, output_dir=folder / name, scratch_dir=folder / "scratch")
    return folder
