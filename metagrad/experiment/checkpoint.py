"""Checkpoints: safetensors and a JSON sidecar in a folder that appears as a whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from metagrad.experiment.config import ConfigError, from_dict, to_dict

FORMAT = "metagrad-checkpoint-2"
KEEP = 2
MAY_CHANGE = ("device", "threads", "episodes")  # options of a run that goes on elsewhere or longer


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or of another run."""


def save(folder: Path, number: int, tensors: dict[str, Tensor], values: dict[str, Any], config: dict) -> Path:
    """Write checkpoint ``number``, if it is not there yet, atomically; remove all but the newest two."""
    folder.mkdir(exist_ok=True)  # not its parents: where they are gone, so is the run
    final, temporary = folder / f"{number:010d}", folder / f".{number:010d}.part"
    if final.exists():
        return final
    for unfinished in folder.glob(".*.part"):
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        temporary.mkdir()
        data, sidecar = save_tensors(_apart(tensors)), {"format": FORMAT, "config": config, **values}
        sidecar["sha256"] = _digest(data, sidecar)
        _write(temporary / "state.safetensors", data)
        _write(temporary / "state.json", json.dumps(sidecar, indent=1).encode())
        _sync(temporary)
        os.replace(temporary, final)
        _sync(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in saved(folder)[:-KEEP]:
        # Half a checkpoint must not have a checkpoint's name.
        os.replace(old, doomed := folder / f".{old.name}.part")
        shutil.rmtree(doomed, ignore_errors=True)
    return final


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory: a target network that has not moved yet is the network itself."""
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, t in tensors.items():
        place = t.untyped_storage().data_ptr()
        own[name] = t.detach().clone() if place in taken else t.detach().contiguous()
        taken.add(place)
    return own


def saved(folder: Path) -> list[Path]:
    """Checkpoints below ``folder``, oldest first."""
    found = [p for p in folder.iterdir() if re.fullmatch("[0-9]{10,}", p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: int(p.name))


def load(folder: Path, config: dict | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the newest checkpoint below ``folder``, tensors and plain values; one of another ``config`` is refused."""
    found = saved(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}")
    path = found[-1]
    advice = f"; without it, {found[-2]} would be the newest" if len(found) > 1 else ""
    try:
        sidecar = json.loads((path / "state.json").read_text("utf-8"))
        data = (path / "state.safetensors").read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}{advice}") from error
    if not isinstance(sidecar, dict) or sidecar.get("format") != FORMAT:
        raise CheckpointError(f"{path / 'state.json'} is not a checkpoint of this program ({FORMAT})")
    if _digest(data, sidecar) != sidecar.get("sha256"):
        raise CheckpointError(f"checkpoint {path} is damaged: its checksum differs{advice}")
    theirs = sidecar.get("config")
    if not isinstance(theirs, dict):
        raise CheckpointError(f"{path / 'state.json'} does not say which configuration it is of")
    if config is not None and theirs != config:
        theirs = _with_defaults(theirs)
        theirs |= {"run": theirs.get("run", {}) | {name: config["run"][name] for name in MAY_CHANGE}}
    if config is not None and theirs != config:
        differing = ", ".join(sorted(_differing(config, theirs)))
        raise CheckpointError(f"checkpoint {path} belongs to another configuration: {differing}")
    try:
        return load_tensors(data), sidecar
    except SafetensorError as error:
        raise CheckpointError(f"{path / 'state.safetensors'} does not hold tensors: {error}") from error


def _with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the options that are newer than it."""
    try:
        return to_dict(from_dict(config))
    except ConfigError:  # it is compared as it stands
        return config


def _differing(mine: Any, theirs: Any, path: str = "") -> list[str]:
    """Paths of the options in which two configurations differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        names = sorted(mine.keys() | theirs.keys())
        return [p for n in names for p in _differing(mine.get(n), theirs.get(n), f"{path}.{n}" if path else n)]
    return [] if mine == theirs else [path]


def _digest(data: bytes, sidecar: dict[str, Any]) -> str:
    """Checksum of the weights and of all else in the sidecar."""
    rest, digest = {key: value for key, value in sidecar.items() if key != "sha256"}, hashlib.sha256(data)
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with replaced(path) as temporary:
        _write(temporary, text.encode())
    _sync(path.parent)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of another as a whole, or not at all."""
    temporary = unfinished(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """Where a file is while it is written; one who is killed then leaves it behind."""
    return path.with_name(f".{path.name}.part")


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Let the names in a folder outlast a power failure."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(opened)
    finally:
        os.close(opened)
