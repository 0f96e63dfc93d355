"""Stage ``tsne``: pictures of what the layers of a network learned."""
