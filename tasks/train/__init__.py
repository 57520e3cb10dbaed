"""Training of generators and of the network behind the Frechet distance."""
