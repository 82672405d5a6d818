"""Where a model comes from: the name of its encoder, the keys of its recipe, and the commit of the code."""
