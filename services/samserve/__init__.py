"""samserve: embed an image once on a GPU, answer every click in milliseconds on a CPU."""
