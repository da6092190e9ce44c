"""The embedded demo set: a seeded generator of pictures with COCO annotations and semantic maps."""
