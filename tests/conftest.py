"""What holds for every test process."""

import gc
import os
from pathlib import Path

import pytest

from tests import preloaded

# One thread a process, as the harness itself runs: pytest-xdist has a process for every core, and libraries that are left to
# themselves start a thread for every core in each of them. Set before anything imports torch; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Folders of the files that take longest, up to a minute and a half each.
FIRST = ("tests/workflow/", "tests/beamlora/", "tests/methods/", "tests/benchmarks/", "tests/harness/report/")


def pytest_configure(config: pytest.Config) -> None:
    """One server of preloaded processes for all workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.add_cleanup(preloaded.start().close)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the dearest fixtures first, so that no worker starts one of them when the other has nothing left."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


def pytest_collection_finish() -> None:
    """What the imports made stays as it is: a collection of garbage takes 0.5 s with it (each training sets off one)."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same for what the tests of a file imported and left behind, which the next file's collections need not look at."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's base model, built once per test process."""
    from harness.experiment.runs import base_models, load_experiment
    from harness.models.pretraining import build_base_model
    from harness.schema.base_models import BuiltModel
    from tests.experiments import miniature, write

    folder = tmp_path_factory.mktemp("models")
    path = write(folder, miniature())
    for name, (_, source) in base_models(load_experiment([path])).items():
        assert isinstance(source, BuiltModel)
        build_base_model(source, output_dir=folder / name, scratch_dir=folder / "scratch")
    return folder
