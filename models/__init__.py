"""What learns: autoencoders, principal components, entropy tables, self-organizing maps."""
