"""Generator of the demo data set: reproducible images with COCO annotations and semantic maps."""
