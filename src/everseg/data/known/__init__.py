"""Layouts that a reader of their own reads, as `everseg data init` recognises them: one module per layout."""
