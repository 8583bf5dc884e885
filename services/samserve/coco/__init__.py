"""Instance annotations in COCO's format."""
