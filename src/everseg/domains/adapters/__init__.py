"""Small trainable modules beside the frozen blocks of a promptable base."""
