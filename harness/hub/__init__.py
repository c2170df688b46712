"""The Hugging Face hub: whether it answers, and its repositories."""
