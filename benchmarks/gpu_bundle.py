"""Build what benchmarks/gpu.py needs on a machine without a network to which at most 64 MiB can be carried in a call.

    make gpu-bundle FLAGS='--data_dir DIR --has FILE'

A call copies this repository (tracked files) and one folder of the bundle to the machine, and runs one command there.
The machine keeps build/gpu/ between calls. The bundle has the packages that a machine with torch and transformers
lacks, the course's files, and an encoder in half precision. The script prints the folder and the command of each call.
The GPU is measured as soon as the packages are there, and the last call trains the recipe of `quality`. Then

    python benchmarks/gpu.py --join FIRST/gpu.json LAST/gpu.json

writes their results to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = Path("build") / "gpu"
PLACE = BUNDLE / "unpacked"  # on the machine
MIB = 2**20
CALL = 56  # MiB that a call carries, beside the repository's files

ON_THE_MACHINE = ("torch", "transformers")  # with all that they require
UNUSED = ("matplotlib", "tensorboard")  # for reports and logs
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 24, 17)] + ["manylinux2014_x86_64"]
RECIPES = {"base": "best_base", "small": "best"}  # encoder → its recipe in recipes/configs/cs224n


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--has", type=Path, help="file with the packages of the machine: names, or pip's list of them")
    parser.add_argument("--python", default="3.12", help="the machine's version of Python")
    parser.add_argument("--data_dir", type=Path, help="folder with the course's files; without it, no quality")
    parser.add_argument("--encoder", choices=[*RECIPES], default="base", help="all-mpnet-base-v2 or all-MiniLM-L6-v2")
    parser.add_argument("--mib", type=float, default=CALL, help="MiB of the bundle that a call carries")
    parser.add_argument("--results", default=str(BUNDLE / "results"), help="folder on the machine for the results")
    parser.add_argument("--unpack", action="store_true", help="on the machine: unpack what is there")
    return parser.parse_args(argv)


# ---- what is carried ----


def name_of(requirement: str) -> str:
    """Return the normalised name of a package, without its version."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s=<>!~\[;@(]", requirement.strip(), maxsplit=1)[0]).lower()


def closure(names: Iterable[str], python: str) -> set[str]:
    """Return packages with all that they require on Linux with this Python, as installed here."""
    where = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    where |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        key = f"{name_of(requirement.name)}{sorted(requirement.extras)}"
        if key in found:
            continue
        found.add(key)
        try:
            needs = distribution(requirement.name).requires or []
        except PackageNotFoundError:  # a dependency of other systems, or of torch on a GPU
            continue
        for need in map(Requirement, needs):
            extras = ["", *requirement.extras]
            if need.marker is None or any(need.marker.evaluate({**where, "extra": extra}) for extra in extras):
                waiting.append(need)
    return {key.partition("[")[0] for key in found}


def missing_packages(has: Iterable[str], python: str) -> list[str]:
    """Return the packages to carry, as `name==version` with the versions that are installed here.

    Args:
        has: names of packages of the machine, beside torch and transformers with their requirements.
        python: the machine's version of Python.
    """
    needed = [need for need in map(Requirement, distribution("mtbert").requires or []) if need.marker is None]
    names = closure([str(need) for need in needed if name_of(need.name) not in UNUSED], python)
    names -= closure(ON_THE_MACHINE, python) | {name_of(name) for name in has}
    versions = {}
    for name in names:
        try:
            versions[name] = distribution(name).version
        except PackageNotFoundError:
            continue
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def download(packages: Sequence[str], python: str, folder: Path) -> None:
    """Download the wheels of packages for Linux on x86-64 into a folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    folder.mkdir(parents=True)
    if packages:
        subprocess.run([*command, *packages], check=True, stdout=sys.stderr)


def halve_encoder(kind: str, cache: Path, folder: Path) -> None:
    """Write the encoder with weights in fp16 into a folder; the base-size one is downloaded to `cache` first."""
    import torch
    from safetensors.torch import load_file, save_file

    command = [sys.executable, str(ROOT / "recipes" / "get_encoder.py")]
    command += ["--base", str(cache)] if kind == "base" else []
    source = Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors", "__pycache__"))
    weights = load_file(source / "model.safetensors")
    half = {name: w.to(torch.float16) if w.is_floating_point() else w for name, w in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})


def widen_encoder(folder: Path) -> None:
    """Convert the weights of an encoder back to fp32, so that it is trained in fp32."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    wide = {name: w.to(torch.float32) if w.is_floating_point() else w for name, w in weights.items()}
    save_file(wide, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2), encoding="utf-8")


# ---- calls ----


def cut(archives: Sequence[Path], folder: Path, size: int) -> list[list[str]]:
    """Cut archives into pieces, and fill the folders `call-1`, `call-2`, … with at most `size` bytes each.

    Every folder has a manifest.json with the SHA-256 of all archives.

    Returns:
        For each call, the names of the archives that are complete with it.
    """
    complete: list[list[str]] = [[]]
    room, number = size, 1
    for archive in archives:
        rest, piece = archive.stat().st_size, 0
        with archive.open("rb") as source:
            while rest:
                if not room:
                    complete.append([])
                    room, number = size, number + 1
                place = folder / f"call-{number}"
                place.mkdir(exist_ok=True)
                count, piece = min(room, rest), piece + 1
                with (place / f"{archive.name}.{piece:03}").open("wb") as target:
                    copy_bytes(source, target, count)
                room, rest = room - count, rest - count
        complete[-1].append(archive.name)
    manifest = json.dumps({archive.name: sha256(archive) for archive in archives})
    for call in range(1, number + 1):
        (folder / f"call-{call}" / "manifest.json").write_text(manifest, encoding="utf-8")
    return complete


def copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copy `count` bytes."""
    while count:
        block = source.read(min(count, MIB))
        target.write(block)
        count -= len(block)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def commands(complete: Sequence[Sequence[str]], args: argparse.Namespace, commit: str) -> list[str]:
    """Return the command of each call.

    Args:
        complete: the archives that are complete with each call.
        args: the command line.
        commit: the commit of the repository.
    """
    unpack = "python3 benchmarks/gpu_bundle.py --unpack"
    site = f'PYTHONPATH="$PWD/{PLACE}/site"'
    run = f'{site} python3 benchmarks/gpu.py --commit {commit} --results "{args.results}"'
    lines = [unpack for _ in complete]
    for number, names in enumerate(complete):
        if "packages.tar" in names:
            data = f" --data_dir {PLACE}/data" if any("data.tar" in each for each in complete[: number + 1]) else ""
            lines[number] += f" && {run} --parts numerics speed inference --minutes 6{data}"
    if any("encoder.tar" in names for names in complete):
        recipe = f"--recipe recipes/configs/cs224n/{RECIPES[args.encoder]}.yaml"
        options = f"--encoder {PLACE}/encoder-{args.encoder}-fp16 --data_dir {PLACE}/data {recipe}"
        lines[-1] += f"{' ;' if 'gpu.py' in lines[-1] else ' &&'} {run} --parts quality --minutes 4 {options}"
    return lines


def unpack(bundle: Path = BUNDLE, place: Path = PLACE) -> None:
    """Join the pieces in the folders of a bundle, and unpack each archive that is complete.

    Packages go to `<place>/site`, whatever the machine has.
    """
    manifests = sorted(bundle.glob("call-*/manifest.json"))
    if not manifests:
        sys.exit(f"gpu_bundle.py: {bundle} has no call-*/manifest.json: the folder of this call was not carried here")
    place.mkdir(parents=True, exist_ok=True)
    for name, expected in json.loads(manifests[-1].read_text(encoding="utf-8")).items():
        pieces = sorted(bundle.glob(f"call-*/{name}.*"), key=lambda piece: piece.suffix)
        archive, done = place / name, place / f"{name}.sha256"
        if done.is_file() and done.read_text() == expected:
            continue
        with archive.open("wb") as joined:
            for piece in pieces:
                with piece.open("rb") as source:
                    shutil.copyfileobj(source, joined)
        if sha256(archive) == expected:
            with tarfile.open(archive) as files:
                files.extractall(place, filter="data")
            finish(name, place)
            done.write_text(expected)
            print(f"unpacked: {name}")
        else:
            print(f"waits for more pieces: {name}, of which {len(pieces)} are here")
        archive.unlink()


def finish(name: str, place: Path) -> None:
    """Unpack the wheels, which is all that they need to be imported, or convert the encoder."""
    if name == "packages.tar":
        for wheel in (place / "packages").glob("*.whl"):
            shutil.unpack_archive(wheel, place / "site", "zip")
    if name == "encoder.tar":
        for folder in place.glob("encoder-*"):
            widen_encoder(folder)


# ---- the bundle ----


def build(args: argparse.Namespace) -> None:
    """Build the bundle, and print the calls."""
    bundle, work = ROOT / BUNDLE, ROOT / BUNDLE / "work"
    for old in [work, *bundle.glob("call-*")]:
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir(parents=True)
    has = args.has.read_text(encoding="utf-8").splitlines() if args.has else []
    packages = missing_packages(filter(None, map(str.strip, has)), args.python)
    print(f"packages: {' '.join(packages) or 'none'}", flush=True)
    download(packages, args.python, work / "packages")
    carried = ["packages"]
    if args.data_dir:
        shutil.copytree(args.data_dir, work / "data")
        name = f"encoder-{args.encoder}-fp16"
        halve_encoder(args.encoder, bundle / "all-mpnet-base-v2", work / name)
        carried += ["data", name]
    archives = []
    for folder in carried:
        archives.append(work / f"{folder.split('-')[0]}.tar")
        with tarfile.open(archives[-1], "w") as archive:
            archive.add(work / folder, folder)
    complete = cut(archives, bundle, int(args.mib * MIB))
    shutil.rmtree(work)
    show(complete, args)


def show(complete: Sequence[Sequence[str]], args: argparse.Namespace) -> None:
    """Print each call: what it carries, and its command."""
    git = [shutil.which("git") or "git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = commands(complete, args, commit.stdout.strip())
    for number, command in enumerate(lines, 1):
        folder = BUNDLE / f"call-{number}"
        size = sum(file.stat().st_size for file in (ROOT / folder).iterdir()) / MIB
        print(f"\ncall {number} of {len(lines)}\n  carry:   {folder} ({size:.1f} MiB)\n  command: {command}")
    print(f"\nThe results are written to {args.results} on the machine, which must keep {BUNDLE} between the calls.")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.unpack:
        unpack()
    else:
        build(args)


if __name__ == "__main__":
    main()
