"""Training of the restoration module, the autoencoder and the controllable diffusion module."""
