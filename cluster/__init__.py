"""WHERE: Ray, storage and clouds. Knows jobs only as command lines; imports neither `serve` nor `jobs`."""

from cluster.moved import moved

moved(
    "cluster",
    {
        "artifact": "store.artifact",
        "connect": "connection.connect",
        "embedded": "connection.embedded",
        "registry": "store.registry",
        "storage": "store.storage",
    },
)
