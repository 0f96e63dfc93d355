"""The pictures, one subject a module; ``style`` is what they share."""
