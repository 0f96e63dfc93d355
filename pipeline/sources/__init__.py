"""Where images come from: every source becomes an ``ImageSet``, whatever its form."""
