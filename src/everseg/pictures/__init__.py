"""Draw masks, class maps and clicks on an image; one palette for all."""
