"""Stage ``train``: trains the network, with checkpoints, on one or several processes."""
