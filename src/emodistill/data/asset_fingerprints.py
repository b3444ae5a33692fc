"""Short fingerprints of the package's own files that a corpus is made of."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

_LINES = ("counterparty_lines", "perceivers", "personas.yaml", "phrasebook", "vocabularies")


def assets_fingerprint() -> str:
    """Twelve hex digits over what teacher and simulation are made of: their lines, weights and the domain files."""
    assets = files("emodistill") / "assets"
    return _fingerprint([assets / name for name in _LINES] + [_domains()])


def domains_fingerprint() -> str:
    """Twelve hex digits over the domain files, which every prompt and every generated scenario comes from."""
    return _fingerprint([_domains()])


def _domains() -> Traversable:
    return files("emodistill") / "negotiation" / "domains"


def _fingerprint(places: list[Traversable]) -> str:
    digest = hashlib.sha256()
    for place in places:
        for entry in _walk(place):
            digest.update(entry.read_bytes())
    return digest.hexdigest()[:12]


def _walk(place: Traversable) -> list[Traversable]:
    if not place.is_dir():
        return [place]
    entries = sorted((e for e in place.iterdir() if e.name != "__pycache__"), key=lambda entry: entry.name)
    return [leaf for entry in entries for leaf in _walk(entry)]
