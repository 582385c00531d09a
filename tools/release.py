"""Builds what a release consists of and tries it in an empty environment: `make release`, or `make release DRAFT=1`.

dist/ then holds the wheel, the source distribution, an SBOM (CycloneDX) of what the runtime lock holds, and
SHA256SUMS. Nothing is published: docs/develop/release.md says how a person does that.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
BIN = Path(sys.executable).parent
TOOLS = ROOT / ".cache" / "release"
PINNED = ("cyclonedx-bom==7.5.0", "twine==7.0.0")
TRIALS = (
    ("cohorts", "--version"),
    ("cohorts", "--help"),
    ("cohorts", "schema", "asyncapi"),
    ("python", "-c", "import schemas; schemas.EVENTS"),
    ("cohorts", "demo"),
)
"""What must work from the wheel alone, outside the checkout."""


class NotReady(Exception):
    """The release can't be made; the text says why."""


def main() -> None:
    """Build and try a release; exit code 1 when it isn't ready to be published."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__)
    parser.add_argument("--draft", action="store_true", help="build although the tree or the changelog isn't ready")
    draft: bool = parser.parse_args().draft
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project["version"]
    problems = list(unready(version, source=project["urls"]["Source"]))
    for problem in problems:
        _say(f"not ready: {problem}")
    if problems and not draft:
        sys.exit("release: nothing was built; `make release DRAFT=1` builds all the same, to try it")
    try:
        wheel = build()
        describe(version)
        try_out(wheel, version)
    except (NotReady, subprocess.CalledProcessError) as error:
        sys.exit(f"release: {error}")
    _say(f"{'a draft' if problems else 'a release'} of {version} is in dist/")


def unready(version: str, *, source: str) -> Iterator[str]:
    """Find what must be put right before this version is published from the address of `source`."""
    changes = _output("git", "status", "--porcelain")
    if changes:
        yield f"{len(changes.splitlines())} files aren't committed"
    [heading, *_] = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not re.fullmatch(rf"{re.escape(version)}, \d{{4}}-\d\d-\d\d", heading):
        yield f'the newest entry of CHANGELOG.md is "{heading}"; it must be "{version}, YEAR-MONTH-DAY"'
    if f"v{version}" in _output("git", "tag").split():
        yield f"v{version} is tagged already; raise the version in pyproject.toml"
    remotes = _output("git", "remote", "--verbose").replace(":", "/")  # git@host:owner/name, or https://host/owner/name
    if source.removeprefix("https://") not in remotes:
        yield f"no remote of this checkout is {source}; put the repository's address into [project.urls]"


def build() -> Path:
    """Build the source distribution, and the wheel from it and from the checkout: both must be the same."""
    shutil.rmtree(DIST, ignore_errors=True)
    _run(BIN / "hatchling", "build", "--directory", DIST)
    [wheel], [sdist] = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(sdist, folder, filter="data")
        [source] = Path(folder).iterdir()
        _run(BIN / "hatchling", "build", "--target", "wheel", "--directory", Path(folder) / "again", cwd=source)
        [again] = (Path(folder) / "again").glob("*.whl")
        if _contents(wheel) != _contents(again):
            raise NotReady("the source distribution doesn't build the same wheel as the checkout")
    return wheel


def describe(version: str) -> None:
    """Check the metadata, and write the SBOM and the checksums."""
    if not (TOOLS / "bin" / "pip").exists():
        venv.create(TOOLS, with_pip=True, clear=True)
    python = TOOLS / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", *PINNED)
    _run(python, "-m", "twine", "check", "--strict", *sorted(DIST.iterdir()))
    bill = DIST / f"etape_cohorts-{version}.cdx.json"
    generate = (python, "-W", "ignore::UserWarning", "-m", "cyclonedx_py")  # it warns that a lock has no graph
    _run(
        *generate, "requirements", "--pyproject", ROOT / "pyproject.toml", "--output-reproducible",
        "--output-file", bill, ROOT / "requirements-runtime.lock",
    )  # fmt: skip
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(DIST.iterdir())]
    (DIST / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def try_out(wheel: Path, version: str) -> None:
    """Install the locked runtime and the wheel where nothing else is, and run what must work."""
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder) / "bin"
        pip = (programs / "python", "-m", "pip", "install", "--quiet")
        _run(*pip, "--require-hashes", "--requirement", ROOT / "requirements-runtime.lock")
        _run(*pip, "--no-deps", wheel)
        for program, *arguments in TRIALS:
            _say(f"trying {' '.join([program, *arguments])}")
            output = _output(programs / program, *arguments, cwd=Path(folder))
            if arguments == ["--version"] and output.strip() != version:
                raise NotReady(f"the wheel says that it is {output.strip()}")


def _contents(wheel: Path) -> dict[str, int]:
    """Return the checksum of each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def _run(*command: str | Path, cwd: Path = ROOT) -> None:
    subprocess.run(command, cwd=cwd, check=True)  # noqa: S603 - our own tools


def _output(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - idem
    return done.stdout


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
