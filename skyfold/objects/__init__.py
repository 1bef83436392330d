"""Objects of the images: places, latents, likeness."""
