"""Checkpoints: safetensors and a JSON sidecar in a folder that appears as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

FORMAT = "metagrad-checkpoint-1"
KEEP = 2


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or of another run."""


def save(folder: Path, number: int, tensors: dict[str, Tensor], values: dict[str, Any], config: dict) -> Path:
    """Write checkpoint ``number``, if it is not there yet, atomically; remove all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    final, temporary = folder / f"{number:010d}", folder / f".{number:010d}.part"
    if final.exists():
        return final
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        data = save_tensors({name: t.detach().contiguous() for name, t in tensors.items()})
        sidecar = {"format": FORMAT, "config": config, **values}
        sidecar["sha256"] = _digest(data, sidecar)
        _write(temporary / "state.safetensors", data)
        _write(temporary / "state.json", json.dumps(sidecar, indent=1).encode())
        os.replace(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in saved(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def saved(folder: Path) -> list[Path]:
    """Checkpoints below ``folder``, oldest first."""
    return sorted(folder.glob("[0-9]" * 10))


def load(
    folder: Path, config: dict | None = None, normalise: Callable[[dict], dict] = dict
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the newest checkpoint below ``folder``; its configuration is compared as ``normalise`` makes it.

    Raises
    ------
    CheckpointError
        If there is none, a file is damaged or foreign, or it was written for another ``config``.
    """
    found = saved(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}")
    path = found[-1]
    advice = f"; without it, {found[-2]} would be the newest" if len(found) > 1 else ""
    try:
        sidecar = json.loads((path / "state.json").read_text())
        data = (path / "state.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}{advice}") from error
    if not isinstance(sidecar, dict) or sidecar.get("format") != FORMAT:
        raise CheckpointError(f"{path / 'state.json'} is not a checkpoint of this program ({FORMAT})")
    if _digest(data, sidecar) != sidecar.get("sha256"):
        raise CheckpointError(f"checkpoint {path} is damaged: its checksum differs{advice}")
    theirs = sidecar["config"]
    if config is not None and theirs != config and (theirs := normalise(theirs)) != config:
        differing = sorted(k for k in config.keys() | theirs.keys() if config.get(k) != theirs.get(k))
        raise CheckpointError(f"checkpoint {path} belongs to another configuration: {', '.join(differing)}")
    return load_tensors(data), sidecar


def _digest(data: bytes, sidecar: dict[str, Any]) -> str:
    """Checksum of the weights and of all else in the sidecar."""
    rest = {key: value for key, value in sidecar.items() if key != "sha256"}
    return hashlib.sha256(data + json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        _write(temporary, text.encode())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
