"""From the bytes of an image file to pixels: decoding, resizing, augmented views."""
