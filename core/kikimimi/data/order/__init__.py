"""The order of training: a function of data, mixture, seed and epoch."""
