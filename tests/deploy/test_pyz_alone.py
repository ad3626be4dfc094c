"""embed.pyz where nothing but requirements.txt is installed and no network is: it gives what `g2l embed` gives."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from g2l.data.demo import draw_cohort
from g2l.deploy.runtime.embed import embed
from g2l.deploy.runtime.summary import EmbedResult

pytestmark = pytest.mark.slow

ABSENT = ("torch", "lightning", "timm", "pyarrow", "pandas", "tiatoolbox", "scipy", "sklearn", "g2l", "jsonargparse")
BLOCK = """\
import socket
def refuse(*_):
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = refuse
"""


def needed(requirements: Path) -> dict[str, Distribution]:
    """What pip would install for the file, taken from what is installed here, in the very versions it names."""
    lines = requirements.read_text().splitlines()
    waiting = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(one.specifier).startswith("==") for one in waiting)
    found: dict[str, Distribution] = {}
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            assert name == "opencv-python-headless", f"{name} is not installed here"
            found[name] = distribution("opencv-python")  # the other build of the same release
        assert wanted.specifier.contains(found[name].version), f"{wanted} but {found[name].version} is installed"
        waiting += [Requirement(one) for one in found[name].requires or []]
    return found


def link(one: Distribution, packages: Path) -> None:
    """Every file of a distribution, by name: a folder may hold files of several."""
    assert one.files
    for file in one.files:
        if ".." in file.parts or file.suffix == ".pyc":
            continue  # scripts, which nothing here calls
        place = packages / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(Path(str(file.locate())).resolve())


class Lone:
    """A Python that has requirements.txt's packages alone, without a network."""

    def __init__(self, folder: Path, requirements: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        (packages,) = folder.glob("lib/python*/site-packages")
        self.installed = needed(requirements)
        for one in self.installed.values():
            link(one, packages)
        allowed = (
            shutil.which("unshare") and not subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode
        )
        self.offline = ["unshare", "-n"] if allowed else []
        if not allowed:
            (packages / "sitecustomize.py").write_text(BLOCK)
        self.how = "a network namespace of its own" if allowed else "sockets that refuse"
        self.folder = folder

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it far from the sources, with nothing of this environment."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        command = [*self.offline, str(self.python), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def lone(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Lone:
    if sys.platform == "win32":
        pytest.skip("links files as Unix does")
    return Lone(tmp_path_factory.mktemp("lone") / "venv", bundle / "requirements.txt")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Something to connect to where there is a network."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def assert_same(one: Path, other: Path) -> int:
    """Every dataset and attribute of two folders' HDF5 files, bit for bit. Returns how many patches there are."""
    names = sorted(file.name for file in one.glob("*.h5"))
    assert names and names == sorted(file.name for file in other.glob("*.h5"))
    patches = 0
    for name in names:
        with h5py.File(one / name) as a, h5py.File(other / name) as b:
            assert a.keys() == b.keys() == {"features", "coords", "um"} and dict(a.attrs) == dict(b.attrs)
            for key in a:
                x, y = a[key][:], b[key][:]  # type: ignore[index]
                assert x.dtype == y.dtype and np.array_equal(x, y)  # type: ignore[union-attr]
            patches += len(a["features"])  # type: ignore[arg-type]
    return patches


def test_nothing_but_the_requirements_is_there_and_no_network(lone: Lone, server: socket.socket) -> None:
    found = lone.run("-c", f"from importlib.util import find_spec; print([n for n in {ABSENT} if find_spec(n)])")
    assert found.stdout == "[]\n", found.stderr
    assert "onnxruntime" in lone.installed and "openvino" in lone.installed and "torch" not in lone.installed
    reach = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
    assert subprocess.run([sys.executable, "-c", reach]).returncode == 0
    assert lone.run("-c", reach).returncode != 0, f"{lone.how} let it through"


def test_drawn_slides_give_what_g2l_embed_gives(bundle: Path, lone: Lone, tmp_path: Path) -> None:
    manifest = draw_cohort(tmp_path / "drawn", workers=1, size_um=300)
    slides = manifest.parent / "slides"
    with tifffile.TiffWriter(slides / "striped.tif") as tiff:  # which tiatoolbox alone would open
        tiff.write(np.full((300, 400, 3), 200, np.uint8), photometric="rgb", rowsperstrip=16)
    done = lone.run(str(bundle / "embed.pyz"), str(slides), "--out", str(tmp_path / "alone"), "--threads", "1")
    assert done.returncode == 1 and done.stdout.endswith("18 done, 0 skipped, 1 failed\n"), done.stderr
    assert "tiatoolbox is not installed here); install tiatoolbox, or convert the file" in done.stdout
    (slides / "striped.tif").unlink()
    result = embed(str(bundle), str(slides), out=str(tmp_path / "here"), threads=1)
    assert assert_same(tmp_path / "alone", tmp_path / "here") == result.patches > 100
    again = lone.run(str(bundle / "embed.pyz"), str(slides), "--out", str(tmp_path / "here"), "--threads", "1")
    assert again.returncode == 0 and again.stdout.endswith("0 done, 18 skipped, 0 failed\n")


def test_the_bundle_verifies_itself(bundle: Path, lone: Lone, drawn_slide: Path) -> None:
    done = lone.run(str(bundle / "embed.pyz"), "--verify", "--slides", str(drawn_slide), "--threads", "1")
    assert done.returncode == 0 and "onnx-fp32" in done.stdout, done.stderr + done.stdout
    wrong = lone.run(str(bundle / "embed.pyz"), "--verify", "--bundle", str(lone.folder))
    assert wrong.returncode == 2 and wrong.stderr.startswith("embed.pyz: error: ") and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("format", ["onnx-fp32", "openvino-fp16"])
def test_every_library_runs_there(bundle: Path, lone: Lone, drawn_slide: Path, tmp_path: Path, format: str) -> None:
    arguments = ["--out", str(tmp_path / "alone"), "--threads", "1", "--format", format, "--batch_size", "16"]
    done = lone.run(str(bundle / "embed.pyz"), str(drawn_slide), *arguments)
    assert done.returncode == 0, done.stderr
    embed(str(bundle), str(drawn_slide), out=str(tmp_path / "here"), threads=1, format=format, batch_size=16)
    assert assert_same(tmp_path / "alone", tmp_path / "here") > 100


@pytest.mark.real_data
def test_real_slides_give_what_g2l_embed_gives(bundle: Path, lone: Lone, real_data: Path, tmp_path: Path) -> None:
    """An Aperio SVS, a breast section, and a DICOM level whose resolution is given."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("cmu-1-small-region.svs", "her2st_B4.tif", "camelyon_level.dcm"):
        (slides / name).symlink_to(real_data / "slides" / name)
    done = lone.run(
        str(bundle / "embed.pyz"), str(slides), "--out", str(tmp_path / "alone"), "--mpp", "0.5", "--threads", "1"
    )
    assert done.returncode == 0 and done.stdout.endswith("3 done, 0 skipped, 0 failed\n"), done.stderr + done.stdout
    result: EmbedResult = embed(str(bundle), str(slides), out=str(tmp_path / "here"), mpp=0.5, threads=1)
    assert assert_same(tmp_path / "alone", tmp_path / "here") == result.patches > 1000
    about = json.loads((tmp_path / "alone" / "run.json").read_text())
    assert about["settings"]["student"] == "tiny" and about["runs"][-1]["versions"]["openslide-bin"]
