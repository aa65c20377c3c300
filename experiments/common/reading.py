"""The reader of run folders: what a run has left behind, checked. It starts without JAX.

results.json holds SHA-256 digests of config.json, of metrics.jsonl and of itself, so a digit that was changed in any of
them is noticed. A digest guards against damage, not against forgery: who changes a number on purpose can write its
digest, too.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

# Fields of results.json that hold a digest, and the file that it is of.
DIGESTS = {"sha256": "results.json", "sha256_of_config": "config.json", "sha256_of_metrics": "metrics.jsonl"}


class Run(NamedTuple):
    """What a run folder holds.

    Attributes:
        config: every setting; empty where there is no config.json.
        metrics: the lines of metrics.jsonl; one that was not finished is left out.
        results: None while the run is not finished.
        verified: whether the digests in results.json say that all of this is as it was written. False for a run that
            is not finished, or that was written before there were digests.
    """

    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, Any] | None
    verified: bool


def read(folder: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        ValueError: a file is damaged; one line that names it, and its line.
        OSError: a file cannot be read.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}")
    config, metrics, results = (Path(folder) / name for name in ("config.json", "metrics.jsonl", "results.json"))
    found = read_object(results) if results.exists() else None
    return Run(
        read_object(config) if config.exists() else {},
        read_lines(metrics) if metrics.exists() else [],
        found,
        verified=found is not None and verify(Path(folder), found),
    )


def verify(folder: Path, results: dict[str, Any]) -> bool:
    """Whether results hold digests, all of which are right; raises ValueError, and names the file, where one is not."""
    if not any(name in results for name in DIGESTS):
        return False
    for name, digest in {"sha256": digest_of(results), **digests_beside(folder)}.items():
        if results.get(name, "") != digest:
            raise ValueError(f"{folder / DIGESTS[name]} is damaged: its SHA-256 is not the one in results.json")
    return True


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ValueError, in one line that names the file, for anything else."""
    return _object(path.read_bytes(), f"{path} is damaged")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file, without a last line that was not finished; raises as `read_object`."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_object(line, f"{path} is damaged in line {i}") for i, line in enumerate(lines, start=1)]


def digest_of(results: dict[str, Any]) -> str:
    """What the field "sha256" of results must hold: the digest of all the others."""
    text = json.dumps({name: x for name, x in results.items() if name != "sha256"}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digests_beside(folder: Path) -> dict[str, str | None]:
    """What the other fields of `DIGESTS` must hold: the digests of the files; None for one that is not there."""
    paths = {name: folder / file for name, file in DIGESTS.items() if name != "sha256"}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None for name, path in paths.items()
    }


def _object(text: bytes, complaint: str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{complaint}: it is not JSON ({str(error)[:100]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{complaint}: it must hold a JSON object")
    return content


def _int(text: str) -> int:
    if len(text) > 20:  # no count of a run has as many digits, and it would not become a float
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)
