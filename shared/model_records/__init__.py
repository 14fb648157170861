"""What phema keeps about a promoted model: `record` in the catalog and in the store, `card` for people."""
