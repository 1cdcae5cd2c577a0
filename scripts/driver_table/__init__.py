"""Reads NVIDIA's headers and writes src/driver's tables; scripts/gen-driver-table is its command line."""
