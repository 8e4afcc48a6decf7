"""Request and response classes, one generated module per API."""
