"""What runs leave behind, and how it is read. ``python -m harness.records`` gathers it in one Parquet file."""
