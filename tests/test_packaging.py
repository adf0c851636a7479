import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOT_SHIPPED = {"tests", "training", "benchmarks", "docs"}


def only_include() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return set(project["tool"]["hatch"]["build"]["only-include"])


def test_every_root_package_is_shipped() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - NOT_SHIPPED | {"__init__.py"} == only_include()


def test_wheel_holds_the_product_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "voxlive/web/static/index.html" in names
    assert "voxlive/streaming/session.py" in names
    folders = {name.split("/")[1] for name in names if name.startswith("voxlive/")}
    assert folders == only_include()
    assert {name.split("/")[0] for name in names} == {
        "voxlive",
        wheel.name[: -len("-py3-none-any.whl")] + ".dist-info",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
