"""Stage ``pretrained``: the weights that training starts from, in the names of our network."""
