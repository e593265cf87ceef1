"""API V1: images, each with a layer and the images below it, and the tags that name them."""
