"""What becomes of the answers that records keep: looked into, and graded again."""
