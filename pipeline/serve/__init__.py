"""Command ``serve``: the exported network as a web service."""
