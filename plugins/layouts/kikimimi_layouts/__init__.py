"""Corpora as they are downloaded, and manifests: what `kikimimi data pack` reads."""
