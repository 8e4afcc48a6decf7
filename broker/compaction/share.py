"""Which broker rewrites the set objects that a broker uploaded: that one, or the first that is there once it is not."""

from __future__ import annotations

from broker.cluster.image import MetadataImage


def compacts_objects_of(image: MetadataImage, uploader: int) -> bool:
    """Whether it is this one. That two think so harms nobody: one of them comes second."""
    if uploader == image.node_id:
        return True
    alive = [each.node_id for each in image.brokers()]
    return uploader not in alive and image.node_id == min(alive, default=image.node_id)
