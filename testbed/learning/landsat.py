"""The embedded data set: Statlog Landsat, rebuilt from Debian's ``r-cran-mlbench``.

Every sample is a 3 x 3 neighbourhood of Landsat MSS pixels in four bands with the land cover of its middle pixel. The
original is UCI's "Statlog (Landsat Satellite)" (A. Srinivasan, 1993, doi 10.24432/C55887, CC BY 4.0), whose lines run
pixel by pixel, left to right and top to bottom, and band by band within a pixel; its official split is the first
4,435 lines for training and the last 2,000 for testing. mlbench keeps both orders.

``python -m testbed.learning.landsat rebuild`` writes the committed ``testbed/data/landsat.npz`` again, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import RackError, ScenarioError, SkyrackError

LANDSAT_PATH = pathlib.Path(__file__).resolve().parent.parent / "data" / "landsat.npz"
LANDSAT_SHA256 = "90ea8a9996ca4c4bee91e59e70fceb941e5b65ab463deee1bb34943a7f3fe775"
"""SHA-256 of the committed ``landsat.npz``."""

SAMPLES = 6_435
TRAIN_SAMPLES = 4_435
PIXELS = 9
BANDS = 4
BAND_MEANS = (69.0, 83.0, 99.0, 83.0)
"""Mean grey level by band over the training split, to the whole level."""
BAND_DEVIATIONS = (14.0, 23.0, 17.0, 19.0)
"""Standard deviation by band over the same. Constants, so that no satellite needs another one's data."""
DEBIAN_PACKAGE = "r-cran-mlbench"
_RDA_MEMBER = "usr/lib/R/site-library/mlbench/data/Satellite.rda"
_COMMAND_TIMEOUT_S = 300.0

# Compressed by bzip2: its one implementation gives the same bytes everywhere, which deflate's several do not (zlib-ng).
# The zip format's first representable instant: any fixed date makes the archive's bytes repeatable.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


class _RReader:
    """Reads the part of R's XDR serialisation (R Internals, section 1.8) that a saved data frame uses.

    Every item starts with a word of flags: its type in the low byte, 0x200 "has attributes", 0x400 "has a name".
    """

    _MAGIC = b"RDX2\nX\n"
    _PAIR, _HAS_ATTRIBUTES, _HAS_NAME = 2, 0x200, 0x400

    def __init__(self, data: bytes) -> None:
        if not data.startswith(self._MAGIC):
            raise ScenarioError("not R data of format 2 in XDR", found=data[:7], allowed="RDX2, XDR")
        self._data = data
        self._at = len(self._MAGIC) + 12  # three version words: of the format, of its writer, of its oldest reader
        self._symbols: list[str] = []
        self._readers: dict[int, Callable[[int], object]] = {
            254: lambda flags: None,
            255: lambda flags: self._symbols[(flags >> 8) - 1],
            1: self._symbol,
            9: lambda flags: bytes(self._array("u1", self._int())).decode("ascii"),
            13: lambda flags: self._array(">i4", self._int()),
            14: lambda flags: self._array(">f8", self._int()),
            16: lambda flags: [self._item() for _ in range(self._int())],
            19: lambda flags: [self._item() for _ in range(self._int())],
        }

    def _int(self) -> int:
        self._at += 4
        return int.from_bytes(self._data[self._at - 4 : self._at], "big", signed=True)

    def _array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        values = np.frombuffer(self._data, dtype=dtype, count=count, offset=self._at)
        self._at += values.nbytes
        return values

    def _symbol(self, flags: int) -> str:
        self._symbols.append(str(self._item()))
        return self._symbols[-1]

    def _item(self) -> Any:
        flags = self._int()
        reader = self._readers.get(flags & 0xFF)
        if reader is None:
            raise ScenarioError("unexpected object in R data", found=f"type {flags & 0xFF} before byte {self._at}")
        value = reader(flags)
        return (value, self.pairs()) if flags & self._HAS_ATTRIBUTES and flags & 0xFF != 9 else value

    def pairs(self) -> dict[str, Any]:
        """The pair list that starts here: what R's ``save`` writes, and what attributes are."""
        found: dict[str, Any] = {}
        while (flags := self._int()) & 0xFF == self._PAIR:
            name = self._item() if flags & self._HAS_NAME else ""
            found[str(name)] = self._item()
        return found


def fetch_deb(folder: pathlib.Path) -> pathlib.Path:
    """Downloads Debian's package into ``folder`` and returns its path. RackError if it can't be had."""
    _command(["apt-get", "download", DEBIAN_PACKAGE], folder)
    found = sorted(folder.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    if not found:
        raise RackError(f"apt-get downloaded no {DEBIAN_PACKAGE}_*.deb; pass one with --deb")
    return found[0]


def read_deb(deb: pathlib.Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of ``landsat.npz`` from a ``.deb`` of r-cran-mlbench.

    Returns train_x [4435, 9, 4] and test_x [2000, 9, 4] uint8 (pixel, band: green, red, two near infra-red),
    train_y and test_y uint8 in 0..5, classes [6] str. ScenarioError if the package holds something else.
    """
    if not deb.is_file():
        raise ScenarioError("no such package file", field="--deb", found=str(deb), allowed=f"a {DEBIAN_PACKAGE} .deb")
    with tempfile.TemporaryDirectory(prefix="skyrack-landsat-") as scratch:
        folder = pathlib.Path(scratch)
        _command(["dpkg-deb", "-x", str(deb.resolve()), str(folder)], folder)
        member = folder / _RDA_MEMBER
        if not member.is_file():
            raise ScenarioError("package without the data set", field="--deb", found=str(deb), allowed=_RDA_MEMBER)
        columns, attributes = _RReader(lzma.decompress(member.read_bytes())).pairs()["Satellite"]
    names = [*(f"x.{i}" for i in range(1, PIXELS * BANDS + 1)), "classes"]
    if attributes["names"] != names:
        raise ScenarioError(
            "unexpected columns", field="--deb", found=attributes["names"], allowed="x.1 .. x.36, classes"
        )
    codes, code_attributes = columns[-1]
    values = np.stack(columns[:-1], axis=1)
    pixels = values.astype(np.uint8)
    labels = (codes - 1).astype(np.uint8)  # R counts from 1
    classes = code_attributes["levels"]
    if values.shape != (SAMPLES, PIXELS * BANDS) or not np.array_equal(pixels, values) or labels.max() >= len(classes):
        raise ScenarioError("unexpected values", field="--deb", found=values.shape, allowed="6,435 x 36 whole bytes")
    pixels = pixels.reshape(SAMPLES, PIXELS, BANDS)
    return {
        "train_x": pixels[:TRAIN_SAMPLES],
        "train_y": labels[:TRAIN_SAMPLES],
        "test_x": pixels[TRAIN_SAMPLES:],
        "test_y": labels[TRAIN_SAMPLES:],
        "classes": np.array(classes),
    }


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """An ``.npz`` (read it with ``numpy.load``) whose bytes depend on the arrays alone."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=_ZIP_EPOCH)
            member.compress_type = zipfile.ZIP_BZIP2
            member.create_system = 3  # Unix, whatever this host is
            member.external_attr = 0o644 << 16
            members.writestr(member, data.getvalue())
    return archive.getvalue()


def rebuild(deb: pathlib.Path | None = None, out: pathlib.Path = LANDSAT_PATH) -> str:
    """Writes ``out`` from ``deb`` (without one, from the package that apt-get downloads); returns its SHA-256."""
    with tempfile.TemporaryDirectory(prefix="skyrack-landsat-") as scratch:
        data = npz_bytes(read_deb(deb or fetch_deb(pathlib.Path(scratch))))
    out.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _command(command: Sequence[str], folder: pathlib.Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise RackError(f"{command[0]} is not installed: rebuild on Debian or Ubuntu") from error
    except subprocess.TimeoutExpired as error:
        raise RackError(f"{command[0]} took longer than {_COMMAND_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise RackError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.learning.landsat", description="Rebuild landsat.npz.")
    verbs = parser.add_subparsers(required=True, metavar="rebuild")
    verb = verbs.add_parser("rebuild", help="write the data set again and print its SHA-256")
    verb.add_argument("--deb", type=pathlib.Path, help=f"a {DEBIAN_PACKAGE} package (default: apt-get download)")
    verb.add_argument("--out", type=pathlib.Path, default=LANDSAT_PATH, help="the .npz to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        sha256 = rebuild(options.deb, options.out)
    except SkyrackError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write(f"{sha256}  {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
