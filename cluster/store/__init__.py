"""What is kept: files behind URIs, artifacts with their manifests, names and verdicts, archives."""
