"""A published model behind a URI: find it, check it against its fingerprint, bring what one variant needs to this host.

    published = open_model("s3://bucket/runs/spam/small-1a2b3c4d")
    engine = load_engine(published.fetch("int8"), "int8")

A plain local directory without a manifest is taken too; there is nothing then to check its files against.
"""

from dataclasses import dataclass
from pathlib import Path

from cluster.store import storage
from cluster.store.artifact import MANIFEST, Artifact, ArtifactError, Kind, digest, open_artifact
from serve.engines.card import CARD, Card, EngineError, read_card, variant_names


@dataclass(frozen=True)
class Published:
    """A model that was found. `artifact` is None for a plain local directory without a manifest."""

    uri: str
    fingerprint: str
    artifact: Artifact | None

    def card(self) -> Card:
        """Its card; EngineError if it is missing or damaged."""
        if self.artifact is None:
            return read_card(Path(storage.absolute(self.uri)))
        if CARD not in self.artifact.manifest.files:
            raise EngineError(f"{self.uri}: no {CARD} in its manifest, so it is no model to serve; publish one that is")
        return read_card(self.artifact.local([CARD]))

    def fetch(self, variant: str | None = None) -> Path:
        """A directory on this host with the files that the variant needs, each checked against its hash."""
        card = self.card()
        if self.artifact is None:
            return Path(storage.absolute(self.uri))
        names = variant_names(card, variant, self.artifact.manifest.files)
        directory = self.artifact.local(names)
        for name in names:
            _check(directory / name, self.artifact.manifest.files[name].sha256)
        return directory


def open_model(uri: str, fingerprint: str | None = None) -> Published:
    """The model at a URI, or in a plain local directory; EngineError if it is none or has not this fingerprint."""
    plain = storage.is_local(uri) and not storage.exists(storage.join(uri, MANIFEST))
    found = _plain(uri) if plain else _artifact(uri)
    if fingerprint is not None and found.fingerprint != fingerprint:
        raise EngineError(
            f"{uri}: its fingerprint is {found.fingerprint[:12]}…, {fingerprint[:12]}… was asked for; "
            "another model lies there now: deploy that one, or give the URI of the one that was meant"
        )
    return found


def _artifact(uri: str) -> Published:
    try:
        artifact = open_artifact(uri)
    except (ArtifactError, storage.StorageError) as error:
        raise EngineError(str(error)) from error
    if artifact.manifest.kind != Kind.MODEL:
        raise EngineError(f"{uri} holds {artifact.manifest.kind}, not a model; give the URI of a model")
    return Published(uri, artifact.fingerprint, artifact)


def _plain(uri: str) -> Published:
    """Its fingerprint is the one that the same files would have once published."""
    directory = Path(storage.absolute(uri))
    read_card(directory)
    hashes = {stat.path: storage.sha256(str(directory / stat.path)) for stat in storage.list_files(uri)}
    return Published(uri, digest({"kind": Kind.MODEL, "files": hashes}), None)


def _check(file: Path, expected: str) -> None:
    found = storage.sha256(str(file))
    if found != expected:
        raise EngineError(
            f"{file}: its sha256 is {found[:12]}…, the manifest says {expected[:12]}…; it was changed or damaged after it "
            "was published. Delete it and publish the model again"
        )
