"""What is learned, and how it is split: data, model, codec, training, aggregation."""
