"""The object format: data blocks, index block, footer. Layout in `s3stream.object.format`."""
