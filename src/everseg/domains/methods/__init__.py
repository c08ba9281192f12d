"""Methods that learn domains, one per file. None imports another; `everseg.methods` has their names."""
