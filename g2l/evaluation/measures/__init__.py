"""Numbers from embeddings and predictions: one idea a file, numpy in, numbers out."""
