"""ANSWER: how a published model answers. Knows no job; may import `cluster`."""

from cluster.moved import moved

moved("serve", {"card": "engines.card", "engine": "engines.engine", "published": "engines.published"})
