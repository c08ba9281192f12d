"""Base models that segment what a prompt points at: SAM, SAM 2 and the embedded tiny SAM."""
