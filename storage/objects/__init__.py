"""Objects of the images in, their table, model and latents out."""
