"""Methods that learn classes, one per file. None imports another; `everseg.methods` has their names."""
