"""Running programs that a model wrote, without trusting them."""
